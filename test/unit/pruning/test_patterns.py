"""Every method prunes to 4:6 and 6:8 as it does to 2:4, and training keeps the pattern."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, WeightError
from sparseflow.pruning import ria, sparsegpt, wanda
from sparseflow.pruning.permutation import channel_order
from sparseflow.pruning.ria import ria_scores
from sparseflow.runtime.pattern import PATTERNS, Pattern, pattern_of

NAMES = [pattern.name for pattern in PATTERNS]


def best_by_search(scores, pattern):
    """Keep the best subset of each block, tried one by one; the first of equal ones."""
    n, k = scores.shape
    keep = torch.zeros(n, k, dtype=torch.bool)
    for row, start in itertools.product(range(n), range(0, k, pattern.block)):
        columns = range(start, min(start + pattern.block, k))
        subsets = itertools.combinations(columns, min(pattern.keep, len(columns)))
        best = max(subsets, key=lambda columns: scores[row, list(columns)].abs().sum())
        keep[row, list(best)] = True
    return keep


@pytest.fixture(params=PATTERNS, ids=NAMES)
def pattern(request):
    return request.param


@pytest.fixture(params=[(5, 48), (3, 47), (4, 50), (2, 5)], ids=str)
def weight(request):
    return torch.randn(*request.param, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_masks_are_the_best_of_all_subsets(pattern, weight):
    mask = pattern.mask(weight)
    assert torch.equal(mask, best_by_search(weight, pattern))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        pruned = pattern.prune(weight.to(dtype))
        assert torch.equal(pruned, weight.to(dtype) * pattern.mask(weight.to(dtype)))
        assert pattern.holds(pruned)


def test_ties_keep_the_earlier(pattern):
    kept = pattern.mask(torch.ones(2, 3 * pattern.block))
    assert torch.equal(kept, torch.tensor(([True] * pattern.keep + [False] * 2) * 3).expand(2, -1))


def test_nothing_is_lost_of_empty_weights(pattern):
    for shape in ((0, 16), (3, 0), (0, 0)):
        assert pattern.prune(torch.empty(shape)).shape == shape
        assert pattern.holds(torch.empty(shape))


def test_the_first_block_with_too_many_is_found(pattern):
    weight = pattern.prune(torch.randn(7, 5 * pattern.block))
    weight[4, 2 * pattern.block : 3 * pattern.block] = -0.0
    assert pattern.first_violation(weight) is None
    weight[4, 2 * pattern.block + 1 : 3 * pattern.block] = float("nan")
    assert pattern.first_violation(weight) == (4, 2)
    assert pattern.first_violation(weight.double()) == (4, 2)


def test_a_weight_has_the_sparsest_of_the_patterns(pattern):
    weight = torch.randn(16, 96)
    assert pattern_of(weight) is None
    assert pattern_of(pattern.prune(weight)) == pattern
    two = Pattern.of("2:4").prune(weight)
    assert all(other.holds(two) for other in PATTERNS), "2:4 is 4:6 and 6:8 too"


@pytest.mark.parametrize("name", ["1:4", "3:4", "5:7", "30:34", "0:2", "2-4", "", None, (2, 4)])
def test_other_patterns_are_refused(name):
    with pytest.raises(ArgumentError, match="pattern"):
        Pattern.of(name)


def test_nan_is_refused_with_its_place(pattern):
    weight = torch.randn(3, 16)
    weight[1, 9] = float("nan")
    with pytest.raises(WeightError, match="row 1, column 9"):
        pattern.prune(weight)


def test_wanda_and_ria_keep_the_best_scores(pattern, weight):
    norms = torch.rand(weight.shape[1], dtype=torch.float64)
    for method, scores in ((wanda, weight * norms), (ria, ria_scores(weight, norms))):
        expected = weight * best_by_search(scores, pattern)
        assert torch.equal(method(weight, norms, pattern), expected)


def obs(weight, gram, pattern, damping):
    """SparseGPT as its paper writes it: a new inverse after each column, all in fp64."""
    work, k = weight.clone(), weight.shape[1]
    gram = gram + damping * gram.diagonal().mean() * torch.eye(k, dtype=torch.float64)
    for column in range(k):
        inverse = torch.linalg.inv(gram[column:, column:])
        if column % pattern.block == 0:
            end = min(column + pattern.block, k)
            # U_jj² of the factor is the first entry of the inverse that remains when j is reached.
            u = [torch.linalg.inv(gram[j:, j:])[0, 0] for j in range(column, end)]
            keep = best_by_search(work[:, column:end] / torch.stack(u).sqrt(), pattern)
        error = work[:, column].masked_fill(keep[:, column % pattern.block], 0) / inverse[0, 0]
        work[:, column:] -= error[:, None] * inverse[0]
    return work


@pytest.mark.parametrize("block", [4, 16, 128])
def test_sparsegpt_is_the_optimal_brain_surgeon_by_columns(pattern, weight, block):
    x = torch.randn(64, weight.shape[1], dtype=torch.float64)
    gram = x.T @ x
    found = sparsegpt(weight, gram.clone(), pattern=pattern, damping=0.01, block=block)
    expected = obs(weight, gram, pattern, 0.01)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert pattern.holds(found)


def test_an_order_of_channels_never_keeps_less(pattern):
    scores = torch.rand(12, 4 * pattern.block) * torch.rand(4 * pattern.block) ** 3
    order = channel_order(scores, pattern)
    assert torch.equal(order.sort().values, torch.arange(4 * pattern.block))
    kept = [float((s * pattern.mask(s)).sum()) for s in (scores[:, order], scores)]
    assert kept[0] >= kept[1]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(26, 32), nn.GELU(), nn.Linear(32, 24)).eval()


@pytest.mark.parametrize("reconstruct", [None, "layer"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "ria", "sparsegpt"])
def test_models_are_pruned_to_it(pattern, method, reconstruct):
    batches = [torch.randn(40, 26) for _ in range(3)]
    pruned = model()
    report = sf.prune(pruned, method, batches, pattern=pattern.name, reconstruct=reconstruct, progress=False)
    assert report.pattern == pattern.name
    assert f"pruned to {pattern.name}" in report.table()
    assert report.to_dict()["pattern"] == pattern.name
    for layer in pruned[::2]:
        assert pattern_of(layer.weight) == pattern
        assert int((layer.weight != 0).sum()) == int(pattern.mask(layer.weight).sum()), (
            "none kept for nothing"
        )


def test_gentler_patterns_cost_less():
    batches = [torch.randn(40, 26) for _ in range(3)]
    errors = {
        name: sf.prune(model(), "sparsegpt", batches, pattern=name, progress=False).layers[0].output_err
        for name in NAMES
    }
    assert errors["2:4"] > errors["4:6"] > errors["6:8"] > 0


@pytest.mark.parametrize("pattern", PATTERNS[1:], ids=NAMES[1:])
def test_blocks_of_a_decoder_are_reconstructed_and_permuted(pattern):
    import zoo

    ids = [zoo.tokens(2, 12) for _ in range(3)]
    llama = zoo.text_model("llama")
    report = sf.prune(
        llama, "wanda", ids, pattern=pattern.name, reconstruct="block", permute=True, steps=3, progress=False
    )
    assert any(layer.method for layer in report.layers)
    for layer in report.layers:
        assert not layer.method or pattern.holds(llama.get_submodule(layer.name).weight)


def test_training_keeps_it(pattern):
    pruned = model()
    sf.prune(pruned, pattern=pattern.name, progress=False)
    dropped = [~pattern.mask(layer.weight) for layer in pruned[::2]]
    optimizer = torch.optim.AdamW(pruned.parameters(), lr=0.05, weight_decay=0.5)
    with sf.finetune.masked(pruned) as masks:
        assert masks.layers == ("0", "2")
        for _ in range(3):
            pruned(torch.randn(8, 26)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for layer, zero in zip(pruned[::2], dropped, strict=True):
        assert torch.equal(layer.weight == 0, zero)
