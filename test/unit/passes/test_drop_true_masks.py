"""Attention without a mask computes what the model does; a padding mask stays."""

from __future__ import annotations

import torch
import zoo
from torch import nn

import sparseflow as sf

SDPA = torch.ops.aten.scaled_dot_product_attention.default


def masks(compiled: sf.CompiledModel) -> list[bool]:
    """Whether each attention reads a mask."""
    nodes = [node for node in compiled.graph(program=-1).graph.nodes if node.target is SDPA]
    return [(*node.args, None)[3] is not None for node in nodes]


def assert_same(compiled: sf.CompiledModel, model: nn.Module, **inputs: torch.Tensor) -> None:
    with torch.no_grad():
        found, expected = (run(**inputs).last_hidden_state for run in (compiled, model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_text_encoder_without_padding_reads_no_mask() -> None:
    torch.manual_seed(0)
    model = zoo.text_model("bert")
    compiled = sf.compile(model, skip=("*",), kwargs={"input_ids": zoo.tokens(2, 12)})
    assert masks(compiled) == [False] * model.config.num_hidden_layers
    for batch, length in ((2, 12), (3, 31)):
        assert_same(compiled, model, input_ids=zoo.tokens(batch, length))


def test_padding_keeps_its_mask() -> None:
    torch.manual_seed(0)
    model, ids = zoo.text_model("bert"), zoo.tokens(2, 12)
    padding = torch.ones_like(ids)
    padding[0, 7:] = 0
    compiled = sf.compile(model, skip=("*",), kwargs={"input_ids": ids, "attention_mask": padding})
    assert masks(compiled) == [True] * model.config.num_hidden_layers
    assert_same(compiled, model, input_ids=ids, attention_mask=padding)


def test_an_image_encoder_reads_no_mask() -> None:
    torch.manual_seed(0)
    model, ((args, kwargs), *_) = zoo.model_and_calls("vit")
    compiled = sf.compile(model, skip=("*",), args=args, kwargs=kwargs)
    assert masks(compiled) == [False] * model.config.num_hidden_layers
    with torch.no_grad():
        torch.testing.assert_close(compiled(*args, **kwargs), model(*args, **kwargs), rtol=1e-4, atol=1e-4)
