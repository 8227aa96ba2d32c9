"""The factors of the study of wrappers: no step raises the loss, and what they are is what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import sparseflow as sf
from sparseflow.pruning import sparsegpt

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "quality"))

from wrapped_factors import Factors, loss_of, on_support


def problem(seed, n=32, k=48):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(k // 2, k, generator=generator, dtype=torch.float64)
    x = torch.randn(400, k // 2, generator=generator, dtype=torch.float64) @ mix
    x += 0.3 * torch.randn(400, k, generator=generator, dtype=torch.float64)
    return torch.randn(n, k, generator=generator, dtype=torch.float64), x.mT @ x


@pytest.mark.parametrize(("seed", "block"), [(0, 8), (1, 16), (2, 4)])
def test_no_step_raises_the_loss_and_the_core_stays_2_4(seed, block):
    weight, gram = problem(seed)
    start = sparsegpt(weight, gram.clone())
    factors = Factors.of(weight, gram, start, block)
    losses = [loss_of(weight, start, gram)]
    assert factors.loss() == pytest.approx(losses[0])
    for _ in range(3):
        for _, loss in factors.sweep(steps=4, swaps=3):
            assert loss <= losses[-1] * (1 + 1e-12)
            losses.append(loss)
            assert sf.is_24(factors.s)
    assert losses[-1] < 0.9 * losses[0]
    product = torch.block_diag(*factors.a) @ factors.s @ torch.block_diag(*factors.b)
    assert torch.allclose(product, factors.product())
    delta = weight - product
    exact = torch.trace(delta @ gram @ delta.mT) / torch.trace(weight @ gram @ weight.mT)
    assert losses[-1] == pytest.approx(float(exact))


def test_every_part_contributes():
    weight, gram = problem(3)
    factors = Factors.of(weight, gram, sparsegpt(weight, gram.clone()), 8)
    before = factors.loss()
    fell = {}
    for name, loss in factors.sweep(steps=4, swaps=3):
        fell[name], before = before - loss, loss
    assert fell.keys() == {"A", "B", "masks", "S"}
    assert all(value > 0 for value in fell.values())


def test_values_on_a_support_are_the_least_squares():
    weight, gram = problem(4, n=3, k=12)
    start = sparsegpt(weight, gram.clone())
    fitted = on_support(weight, start, gram, steps=60)
    for row in range(3):
        kept = (start[row] != 0).nonzero().flatten()
        exact = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ weight[row])
        assert torch.allclose(fitted[row, kept], exact)
    assert torch.equal(fitted == 0, start == 0)


def test_bytes_count_the_wrappers():
    weight, gram = problem(5)
    factors = Factors.of(weight, gram, sparsegpt(weight, gram.clone()), 16)
    assert factors.bytes_over_dense() == pytest.approx(9 / 16 + 16 / 32 + 16 / 48)
