"""Attention that is causal for every call is told so; what a call says of its keys still counts."""

from __future__ import annotations

import pytest
import torch
import zoo

import sparseflow as sf

SDPA = torch.ops.aten.scaled_dot_product_attention.default
LEFT_PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [1] * 12])


def attentions(compiled):
    """Whether each attention has a mask, is causal and reads grouped heads."""
    nodes = [node for node in compiled.graph().graph.nodes if node.target is SDPA]
    return {
        (node.args[3] is not None, (*node.args, *[False] * 3)[5], node.kwargs.get("enable_gqa", False))
        for node in nodes
    }


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("llama", torch.bfloat16, (False, True, True)),
        ("qwen3", torch.float32, (False, True, True)),
        ("gpt2", torch.float32, (False, True, False)),
        ("mistral", torch.float32, (True, False, True)),  # a sliding window
    ],
)
def test_a_prefill_without_padding_needs_no_mask(name, dtype, expected):
    torch.manual_seed(0)
    model = zoo.text_model(name).to(dtype)
    compiled = sf.compile(model, skip=("*",), kwargs={"input_ids": zoo.tokens(2, 12), "use_cache": False})
    assert attentions(compiled) == {expected}
    for batch, length in ((2, 12), (3, 31)):
        ids = zoo.tokens(batch, length)
        with torch.no_grad():
            found, wanted = (run(input_ids=ids, use_cache=False).logits for run in (compiled, model))
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2 if dtype.itemsize == 2 else 1e-4)
    assert compiled.report.model["programs"] == 1


def test_padding_keeps_its_mask():
    model = zoo.text_model("llama")
    inputs = {"attention_mask": LEFT_PADDED, "use_cache": False}
    compiled = sf.compile(model, skip=("*",), kwargs={"input_ids": zoo.tokens(2, 12), **inputs})
    assert attentions(compiled) == {(True, False, True)}
    ids = zoo.tokens(2, 12)
    with torch.no_grad():
        found, wanted = (run(input_ids=ids, **inputs).logits for run in (compiled, model))
    rows = LEFT_PADDED.bool()  # what a padded place gives means nothing
    torch.testing.assert_close(found[rows], wanted[rows], rtol=1e-4, atol=1e-4)
