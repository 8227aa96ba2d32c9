"""compiled.generate gives the tokens of the pruned eager model."""

from __future__ import annotations

import functools

import pytest
import torch
import zoo
from torch import nn

import sparseflow as sf

OPTIONS = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": None}
WRITES = {"aten.copy_.default", "aten.index_copy_.default"}
CASTS = {"aten._to_copy.default"}
Pair = tuple[nn.Module, sf.CompiledModel]


@functools.cache
def compiled_pair(name: str, dtype: torch.dtype = torch.float32) -> Pair:
    """The pruned eager model and the compiled one, which has every program of a static cache already."""
    torch.manual_seed(0)
    model = zoo.text_model(name, zoo.fewest(name)).to(dtype)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    compiled.warmup(batch=3, seq=6, padded=True, generate={**OPTIONS, "cache_implementation": "static"})
    return zoo.pruned_as(model, compiled.report), compiled


@pytest.fixture(scope="module", params=["llama", "qwen3", "mistral", "gpt2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return compiled_pair(request.param)


def left_padded(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, : length // 2] = 0
    return zoo.tokens(batch, length), mask


@pytest.mark.parametrize("sample", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_generates_the_same_tokens_for_a_left_padded_batch(pair: Pair, cache: str, sample: bool) -> None:
    reference, compiled = pair
    prompt, mask = left_padded(3, 9)
    found, expected = (
        torch.manual_seed(7)
        and model.generate(
            prompt, attention_mask=mask, do_sample=sample, cache_implementation=cache, **OPTIONS
        )
        for model in (compiled, reference)
    )
    assert expected.shape == (3, 21)
    assert torch.equal(found, expected)


def test_warmup_leaves_nothing_to_capture_for_other_lengths_and_static_caches_are_used_again(
    pair: Pair,
) -> None:
    reference, compiled = pair
    before = compiled.report.model["programs"]
    for length in (7, 4):  # a prompt beyond mistral's window of 8 takes another path
        prompt, mask = left_padded(3, length)
        options = {**OPTIONS, "attention_mask": mask, "do_sample": False, "cache_implementation": "static"}
        found, expected = (model.generate(prompt, **options) for model in (compiled, reference))
        assert torch.equal(found, expected)
    assert compiled.report.model["programs"] == before


def test_a_cache_that_was_returned_is_the_callers() -> None:
    _, compiled = compiled_pair("llama")
    prompt, mask = left_padded(3, 5)
    options = {**OPTIONS, "attention_mask": mask, "cache_implementation": "static"}
    first = compiled.generate(prompt, return_dict_in_generate=True, **options).past_key_values
    keys = first.layers[0].keys.clone()
    second = compiled.generate(prompt, return_dict_in_generate=True, **options).past_key_values
    assert first is not second
    assert torch.equal(first.layers[0].keys, keys)


def test_decoding_over_a_growing_cache_needs_no_program_a_token() -> None:
    torch.manual_seed(0)
    compiled = sf.compile(zoo.text_model("llama"), prune="magnitude", policy="sparse")
    compiled.warmup(batch=1, seq=7)
    before = compiled.report.model["programs"]
    compiled.generate(zoo.tokens(1, 12), max_new_tokens=16, do_sample=False, pad_token_id=0)
    assert compiled.report.model["programs"] == before


def greedy_agreement(found: torch.Tensor, logits: torch.Tensor, prompt: int) -> float:
    """The share of generated tokens `[batch, length]` that another model, given those before, picks too."""
    return float((logits[:, prompt - 1 : -1].argmax(-1) == found[:, prompt:]).float().mean())


def test_nearly_every_greedy_token_in_bfloat16_is_the_pruned_eager_models() -> None:
    reference, compiled = compiled_pair("llama", torch.bfloat16)
    tokens = compiled.generate(zoo.tokens(3, 9), do_sample=False, **{**OPTIONS, "max_new_tokens": 40})
    with torch.no_grad():
        agreement = greedy_agreement(tokens, reference(tokens).logits, 9)
    # Random weights give logits that lie closer together than those of trained models.
    assert agreement >= 0.95


def test_the_lowered_graph_copies_nothing() -> None:
    copies = ("contiguous", "clone", "copy")
    _, compiled = compiled_pair("llama")
    compiled.capture(input_ids=zoo.tokens(2, 5), use_cache=False)
    one_token, whole = compiled.graph(program=1), compiled.graph(program=-1)
    names = {str(node.target) for graph in (whole, one_token) for node in graph.graph.nodes}
    assert "aten.scaled_dot_product_attention.default" in names
    assert {name for name in names if any(copy in name for copy in copies)} <= WRITES | CASTS
    writes = [str(node.target) for node in one_token.graph.nodes if str(node.target) in WRITES]
    assert sorted(writes) == ["aten.copy_.default"] * 2 + ["aten.index_copy_.default"] * 4


def test_one_token_attends_to_grouped_heads_where_the_cache_holds_them() -> None:
    _, compiled = compiled_pair("llama")
    attends = torch.ops.sparseflow.decode_attention.default
    attention = [node for node in compiled.graph(program=1).graph.nodes if node.target is attends]
    read = [str(viewed(tensor).target) for node in attention for tensor in node.args[1:3]]
    assert read == ["aten.index_copy_.default"] * 4


def viewed(node: torch.fx.Node) -> torch.fx.Node:
    """Return what a chain of views shows."""
    aten = torch.ops.aten
    while node.target in {aten.select.int, aten.expand.default, aten.unsqueeze.default, aten.slice.Tensor}:
        node = node.args[0]
    return node
