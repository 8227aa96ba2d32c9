"""Least squares for kept weights, and training them against block outputs."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.pruning import reconstruction, refinement
from sparseflow.pruning.reconstruction import RIDGE, LeastSquares


def problem(rows=40, n=6, k=16, damping=0.01):
    torch.manual_seed(0)
    dense, noise = torch.randn(rows, k, dtype=torch.float64), torch.randn(rows, k, dtype=torch.float64)
    x, weight = dense + 0.3 * noise, torch.randn(n, k, dtype=torch.float64)
    return dense, x, weight, LeastSquares(weight, x.T @ x / rows, dense.T @ x / rows, rows, damping, "up")


def solution(dense, x, weight, support, damping=0.01):
    """Row by row, the ridge as further rows of a plain least-squares problem."""
    rows, k = x.shape
    ridge = max(damping, RIDGE * k / rows) * x.square().mean()
    expected = torch.zeros_like(weight)
    for i, keep in enumerate(support):
        more = (ridge * rows) ** 0.5 * torch.eye(k, dtype=x.dtype)
        left, right = torch.cat((x, more))[:, keep], torch.cat((dense, more)) @ weight[i]
        expected[i, keep] = torch.linalg.lstsq(left, right).solution
    return expected


@pytest.mark.parametrize("exact", [2048, 0])
def test_kept_weights_are_the_least_squares_solution_on_their_support(exact, monkeypatch):
    monkeypatch.setattr(reconstruction, "_EXACT_UP_TO", exact)
    monkeypatch.setattr(reconstruction, "_TOLERANCE", 1e-12)
    dense, x, weight, least = problem()
    start = sf.prune_24(weight)
    start[2, :4] = 0
    found = least.on_support(start)
    torch.testing.assert_close(found, solution(dense, x, weight, start != 0), rtol=1e-8, atol=1e-8)
    assert not found[start == 0].any()


def test_without_a_mask_all_weights_are_the_solution():
    dense, x, weight, least = problem()
    expected = solution(dense, x, weight, torch.ones_like(weight, dtype=torch.bool))
    torch.testing.assert_close(least.dense(), expected, rtol=1e-8, atol=1e-8)


def test_nothing_to_make_up_for_leaves_the_weights():
    torch.manual_seed(0)
    x, weight = torch.randn(9, 16, dtype=torch.float64), torch.randn(4, 16, dtype=torch.float64)
    least = LeastSquares(weight, x.T @ x / 9, None, 9, 0.01, "up")
    torch.testing.assert_close(least.dense(), weight)


def drift(reconstruct, method="wanda", name="llama", **options):
    """How far a pruned model's outputs are from the dense one's."""
    torch.manual_seed(0)
    dense = zoo.text_model(name)
    model, batches = copy.deepcopy(dense), [{"input_ids": zoo.tokens(8, 16)} for _ in range(4)]
    report = sf.prune(model, method, batches, reconstruct=reconstruct, **options)
    assert all(sf.is_24(model.get_submodule(layer.name).weight) for layer in report.layers if layer.method)
    with torch.no_grad():
        pairs = [(model(**batch)[0], dense(**batch)[0]) for batch in batches]
    return float(sum((a - b).norm() for a, b in pairs) / sum(b.norm() for _, b in pairs)), model


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_reconstruction_brings_outputs_closer_and_training_closer_still(method):
    plain, by_layer, by_block = (drift(what, method, steps=60)[0] for what in (None, "layer", "block"))
    assert by_block < by_layer < plain


def test_a_token_with_massive_activations_counts_as_any_other():
    torch.manual_seed(0)
    batches = [torch.randn(2, 8, 5) for _ in range(3)]
    batches[1][0, 0] *= 1e4
    batches[2][1, 3] *= 1e-4
    weights = refinement._token_weights(batches)
    relative = [w * target.square().sum(-1) * 48 / 3 for w, target in zip(weights, batches, strict=True)]
    assert relative[1][0, 0] == pytest.approx(1)  # an error as long as its target
    assert relative[2][1, 3] < 1e-6  # its own length says nothing: an attention gives tokens near 0
    assert max(float(part.max()) for part in relative) == pytest.approx(1)
    assert refinement._token_weights([torch.empty(0, 8, 5)])[0].shape == (0, 8)


@pytest.mark.parametrize("what", ["attention", "mlp"])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_training_a_part_of_a_block_changes_that_part_only(name, what):
    (_, base), (_, model) = drift("layer", name=name), drift(what, name=name, steps=5)
    changed = {
        key
        for (key, one), two in zip(model.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(one, two) and ".0." in key
    }
    assert changed
    assert all(("attn" in key or "attention" in key) == (what == "attention") for key in changed)


def test_training_repeats_under_its_seed_and_leaves_no_gradients():
    (_, one), (_, two) = (drift("block", steps=7, seed=3) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.grad is None
        assert a.requires_grad


@pytest.mark.parametrize("name", ["deberta", "gpt-neox", "clip", "t5 encoder"])
@pytest.mark.filterwarnings("ignore:.*fewer calibration rows")
def test_other_architectures_are_reconstructed_and_permuted(name):
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls(name)
    batches = [kwargs or args for args, kwargs in calls]
    report = sf.prune(model, "ria", batches, reconstruct="block", steps=2, permute=True)
    assert all(0 <= layer.output_err < 2 for layer in report.layers if layer.method)
