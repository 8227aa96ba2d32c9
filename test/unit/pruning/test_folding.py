"""Permuting channels: what it gains, and that a model computes the same afterwards."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.pruning import folding, permutation
from sparseflow.pruning.permutation import channel_order
from sparseflow.runtime.pattern import TWO_OF_FOUR


def kept(scores):
    return float(scores.unflatten(1, (-1, 4)).topk(2, dim=2).values.sum())


def test_an_order_comes_close_to_the_best_one_and_is_never_worse_than_none():
    for seed in range(6):
        scores = torch.rand(5, 8, generator=torch.Generator().manual_seed(seed)) ** 3
        order = channel_order(scores, TWO_OF_FOUR)
        assert sorted(order.tolist()) == list(range(8))
        splits = (
            [*half, *(c for c in range(8) if c not in half)] for half in itertools.combinations(range(8), 4)
        )
        best = max(kept(scores[:, split]) for split in splits)
        assert kept(scores) <= kept(scores[:, order]) <= best + 1e-5
        assert kept(scores[:, order]) > 0.97 * best


def test_without_scipy_channels_are_dealt_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr(permutation, "assignment_available", lambda: False)
    scores = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]]).repeat(3, 1)
    assert kept(scores[:, channel_order(scores, TWO_OF_FOUR)]) == 3 * (8 + 7 + 6 + 5)


def folded(name, monkeypatch):
    """A model whose channels were permuted, pruning none of it; the report; the dense model; its batches."""
    torch.manual_seed(0)
    dense, calls = zoo.model_and_calls(name)
    dense = dense.double()
    with torch.no_grad():
        for p in dense.parameters():
            p += 0.1 * torch.randn_like(p)  # biases are zeros else
    model = copy.deepcopy(dense)
    batches = [kwargs or args for args, kwargs in calls]
    monkeypatch.setattr("sparseflow.pruning.methods.ria", lambda weight, norms, pattern: weight)
    return model, sf.prune(model, "ria", batches, permute=True), dense, calls


SPLIT = {"llama": 2, "mistral": 2, "qwen3": 2, "opt": 2, "bert": 2, "gpt2": 2, "phi3": 2, "t5 encoder": 2}


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.filterwarnings("ignore:.*fewer calibration rows")
def test_permuted_channels_are_made_up_for_exactly(name, monkeypatch):
    model, report, dense, calls = folded(name, monkeypatch)
    permuted = [layer.name for layer in report.layers if layer.permuted]
    assert len(permuted) == 2 * SPLIT[name], "the last layers of attention and MLP, in each of two blocks"
    moved = {
        k
        for (k, a), b in zip(model.named_parameters(), dense.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert {f"{name}.weight" for name in permuted} <= moved
    with torch.no_grad():
        for args, kwargs in calls:
            found, expected = model(*args, **kwargs)[0], dense(*args, **kwargs)[0]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*fewer calibration rows")
def test_layers_whose_channels_stay_are_named(monkeypatch):
    _, report, _, _ = folded("llama", monkeypatch)
    assert any("layers stay in their order" in note and "0.self_attn.q_proj" in note for note in report.notes)


def test_a_fold_that_changes_outputs_is_not_taken(monkeypatch):
    """Queries are as wide as values: permuting them with the output projection must fail the proof."""
    guesses = folding._guesses
    seen = []

    def only_queries(visit, reader, earlier, unit):
        found = [g for g in guesses(visit, reader, earlier, unit) if "query" in g.writers[0][0].name]
        seen.extend(found)
        return iter(found)

    monkeypatch.setattr(folding, "_guesses", only_queries)
    _, report, _, _ = folded("bert", monkeypatch)
    assert seen
    assert not any(layer.permuted for layer in report.layers)
