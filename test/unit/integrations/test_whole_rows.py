"""Decoders told that rows are whole give what they give without, and are as before afterwards."""

from __future__ import annotations

import pytest
import torch
import zoo
from transformers import masking_utils

from sparseflow.integrations.transformers.whole_rows import whole_rows, why_not_whole_rows


def decoder(name, **changes):
    model_class, make = zoo.TEXT[name]
    config = make()
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    return model_class(config).eval()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "phi3"])
def test_outputs_are_the_same_and_no_mask_is_made(name, monkeypatch):
    model = decoder(name, sliding_window=None)
    ids = torch.randint(0, 60, (3, 9))
    expected = model(input_ids=ids).logits

    def refuse(*_):
        raise AssertionError("looked for packed sequences")

    with whole_rows(model):
        monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", refuse)
        found = model(input_ids=ids).logits
    monkeypatch.undo()
    torch.testing.assert_close(found, expected)
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("mistral", {"sliding_window": 4}, "sliding_attention"),
        ("gemma3", {}, "sliding_attention"),
        ("bert", {}, "no decoder"),
    ],
)
def test_others_stay_as_they_are(name, changes, says):
    model = decoder(name, **changes)
    assert says in why_not_whole_rows(model)
    before = model.config._attn_implementation
    with whole_rows(model):
        assert model.config._attn_implementation == before


def test_eager_attention_stays_eager():
    model = decoder("llama")
    model.set_attn_implementation("eager")
    with whole_rows(model):
        assert model.config._attn_implementation == "eager"
    assert "sdpa" in why_not_whole_rows(model)


def test_an_error_restores_the_attention():
    model = decoder("llama")
    with pytest.raises(ZeroDivisionError), whole_rows(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
