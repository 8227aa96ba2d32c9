"""The built-in shapes are those that were published."""

from __future__ import annotations

import pytest
import torch

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import from_config
from sparseflow.profiling.workload import SHAPES, shape_config, with_layers, workload

PUBLISHED = {
    "llama-3-8b": 8.03e9,
    "llama-3-70b": 70.55e9,
    "qwen3-0.6b": 0.596e9,
    "gpt2": 124.4e6,
    "bert-base": 109.5e6,
    "vit-base": 86.4e6,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_as_many_parameters_as_published(name):
    with torch.device("meta"):
        model = from_config("a test", shape_config(name))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(PUBLISHED[name], rel=0.005)


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ("bert-base", "vit-base")])
def test_a_decoder_decodes_over_a_cache_that_rewinds(name):
    config = with_layers(shape_config(name), 1)
    for attribute, small in (("vocab_size", 32), ("hidden_size", 64), ("intermediate_size", 64)):
        if hasattr(config, attribute):
            setattr(config, attribute, small)
    config.num_attention_heads = config.num_key_value_heads = 4
    config.head_dim = 16
    work = workload(from_config("a test", config), 2, 5, "decode")
    with torch.no_grad():
        first = work.model(**work.kwargs).logits
        other = work.model(**work.kwargs).logits
        work.before()
        again = work.model(**work.kwargs).logits
    assert first.shape == (2, 1, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_encoder_has_no_cache_to_decode_with():
    with torch.device("meta"):
        model = from_config("a test", with_layers(shape_config("bert-base"), 1))
    with pytest.raises(ArgumentError, match="no cache"):
        workload(model, 1, 8, "decode")
