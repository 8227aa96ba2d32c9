"""Wanda and SparseGPT for one weight, against plain readings of the papers."""

from __future__ import annotations

import pytest
import torch

import sparseflow as sf
from sparseflow.errors import CalibrationError
from sparseflow.pruning import ria, sparsegpt, wanda

SHAPES = [(5, 16), (3, 4), (6, 22), (4, 21), (2, 3), (7, 41)]


def correlated(rows, k, seed=0):
    """Rows that a few hidden factors explain but for some noise, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    latent, mix, noise = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, 1 + k // 4), (1 + k // 4, k), (rows, k))
    )
    scale = torch.logspace(-1, 1, k, dtype=torch.float64)[torch.randperm(k, generator=generator)]
    return (latent @ mix + 0.5 * noise) * scale


def random_weight(n, k, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed + 99), dtype=torch.float64)


def sparsegpt_by_inverses(weight, gram, damping):
    """Column by column: the OBS update with the inverse of what remains of the Hessian, inverted anew."""
    w, k = weight.clone(), weight.shape[1]
    hessian = gram + damping * gram.diagonal().mean() * torch.eye(k, dtype=gram.dtype)
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(k)]
    for row in w:
        for j in range(k):
            if j % 4 == 0:
                group = range(j, min(j + 4, k))
                saliency = {c: float(row[c] ** 2 / inverses[c][0, 0]) for c in group}
                kept = sorted(group, key=lambda c: -saliency[c])[:2]
            if j not in kept:
                row[j:] -= row[j] / inverses[j][0, 0] * inverses[j][0]
                row[j] = 0
    return w


@pytest.mark.parametrize("block", [4, 8, 128])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_sparsegpt_equals_the_update_by_explicit_inverses(n, k, block):
    weight, x = random_weight(n, k), correlated(3 * k, k)
    gram = x.T @ x
    expected = sparsegpt_by_inverses(weight, gram, 0.01)
    found = sparsegpt(weight, gram.clone(), damping=0.01, block=block)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert torch.equal(found == 0, expected == 0)
    assert sf.is_24(found)


def test_sparsegpt_gives_the_least_squares_solution_where_only_the_last_columns_are_kept():
    """With zeros ahead of all kept columns, its greedy updates are the closed form over the kept ones."""
    x = correlated(64, 4)
    gram = x.T @ x
    weight = torch.tensor([[1e-3, -1e-3, 3.0, -2.0]], dtype=torch.float64)
    found = sparsegpt(weight, gram.clone(), damping=0.0)
    solution = torch.linalg.lstsq(x[:, 2:], x @ weight.T).solution.T
    torch.testing.assert_close(found, torch.cat((torch.zeros(1, 2), solution), 1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_wanda_keeps_the_two_best_scores_of_each_group(n, k):
    weight, norms = random_weight(n, k), correlated(9, k).norm(dim=0)
    expected = weight.clone()
    for row in expected:
        for start in range(0, k, 4):
            group = range(start, min(start + 4, k))
            for place in sorted(group, key=lambda c: -float(abs(row[c]) * norms[c]))[2:]:
                row[place] = 0
    assert torch.equal(wanda(weight, norms), expected)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_ria_keeps_the_two_best_scores_of_each_group(n, k):
    weight, norms = random_weight(n, k), correlated(9, k).norm(dim=0)
    expected, size = weight.clone(), weight.abs()
    for i, row in enumerate(expected):
        score = [
            float((size[i, j] / size[i].sum() + size[i, j] / size[:, j].sum()) * norms[j] ** 0.5)
            for j in range(k)
        ]
        for start in range(0, k, 4):
            for place in sorted(range(start, min(start + 4, k)), key=lambda c: -score[c])[2:]:
                row[place] = 0
    assert torch.equal(ria(weight, norms), expected)


@pytest.mark.parametrize("prune", [lambda w: wanda(w, torch.ones(8)), lambda w: sparsegpt(w, torch.eye(8))])
def test_ties_keep_the_earlier_entries(prune):
    assert torch.equal(prune(torch.ones(2, 8)) != 0, torch.tensor([[True, True, False, False] * 2] * 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_results_have_the_dtype_of_the_weight_and_are_24(dtype):
    weight, x = random_weight(9, 30).to(dtype), correlated(90, 30).float()
    for pruned in (wanda(weight, x.norm(dim=0)), sparsegpt(weight, x.T @ x)):
        assert pruned.dtype == dtype
        assert sf.is_24(pruned)
        assert pruned.count_nonzero() >= 9 * 14


def test_sparsegpt_loses_less_than_wanda_and_wanda_less_than_magnitude():
    losses = []
    for seed in range(8):
        weight, x = random_weight(24, 48, seed), correlated(400, 48, seed)
        pruned = (sparsegpt(weight, x.T @ x), wanda(weight, x.norm(dim=0)), sf.prune_24(weight))
        losses.append([float(((weight - w) @ x.T).norm() / (weight @ x.T).norm()) for w in pruned])
    best, middle, worst = torch.tensor(losses).mean(0).tolist()
    assert best < 0.8 * middle
    assert middle < 0.9 * worst


def test_columns_of_dead_features_become_zero_and_change_nothing_else():
    weight, x = random_weight(6, 16), correlated(64, 16)
    x[:, [0, 1, 9]] = 0
    pruned = sparsegpt(weight, x.T @ x)
    assert not pruned[:, [0, 1, 9]].any()
    live = [c for c in range(16) if c not in (0, 1, 9)]
    assert (pruned[:, live] != 0).sum(1).tolist() == [8] * 6


def test_scaling_the_inputs_changes_no_result():
    weight, x = random_weight(6, 16), correlated(64, 16)
    x[:, 3] = 0
    torch.testing.assert_close(sparsegpt(weight, x.T @ x), sparsegpt(weight, x.T @ x * 2.0**-40))


def test_a_matrix_that_damping_does_not_make_definite_is_refused():
    x = torch.ones(2, 8)
    with pytest.raises(CalibrationError, match=r"layer up: XᵀX with damping=0.0 is not positive"):
        sparsegpt(torch.ones(2, 8), x.T @ x, damping=0.0, name="up")
