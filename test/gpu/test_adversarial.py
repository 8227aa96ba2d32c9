"""Inputs that show what random ones hide, for the kernel for few rows: each element against its own bound."""

import pytest
import torch
from gpu_weights import inputs, packed, pruned

from sparseflow.runtime import ops

DTYPES = [torch.bfloat16, torch.float16]
SHAPES = [(256, 512), (203, 452), (1088, 4096)]
ROWS = (1, 6, 33)


def skinny(x, device, variant=-1):
    return ops.skinny_linear(
        x, device.values, device.positions, None, None, device.in_features, "none", variant
    )


def assert_within_rounding(y, x, weight):
    """|y − ref| ≤ one rounding of y and K of fp32, of the sum of magnitudes."""
    exact, dtype = x.double() @ weight.double().T, torch.finfo(y.dtype)
    magnitudes = x.double().abs() @ weight.double().abs().T
    bound = dtype.eps * exact.abs() + x.shape[-1] * 2.0**-23 * magnitudes + dtype.smallest_normal * dtype.eps
    worst = ((y.double() - exact).abs() - bound).max()
    assert worst <= 0, float(worst)


def hot_row(x):
    x[-1] *= 1000


def hot_column(x):
    x[:, 5] *= 1000


def huge(x):
    x *= 1e30 if x.dtype == torch.bfloat16 else 1e3


def tiny(x):
    x *= 1e-30 if x.dtype == torch.bfloat16 else 2e-6


def mixed_magnitudes(x):
    x[:, ::2] *= 100
    x[:, 1::2] *= 1e-3


def cancelling(x):
    x[:, 1::2] = -x[:, 0 : x.shape[1] - 1 : 2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spoil", [hot_row, hot_column, huge, tiny, mixed_magnitudes, cancelling])
def test_each_element_is_within_its_rounding(spoil, shape, dtype):
    weight = pruned(*shape, dtype)
    device = packed(weight)
    for m in ROWS:
        x = inputs(m, shape[1], dtype, seed=m)
        spoil(x)
        y = skinny(x, device)
        assert_within_rounding(y, x, weight)
        assert torch.equal(skinny(x, device), y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_reaches_just_the_rows_that_keep_its_column(bad, shape, dtype):
    weight = pruned(*shape, dtype)
    device, (n, k) = packed(weight), shape
    for m, column in ((1, 0), (6, k // 2), (33, k - 1)):
        x = inputs(m, k, dtype, seed=m)
        clean = skinny(x, device)
        x[m - 1, column] = bad
        y = skinny(x, device)
        kept = weight[:, column] != 0
        assert 0 < int(kept.sum()) < n
        assert torch.equal(y[: m - 1], clean[: m - 1])
        assert torch.equal(y[m - 1, ~kept], clean[m - 1, ~kept])
        expected = bad * weight[kept, column].double()
        assert torch.equal(y[m - 1, kept].double().nan_to_num(7), expected.nan_to_num(7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_beyond_the_dtype_are_infinite_as_in_a_dense_product(dtype):
    weight = pruned(203, 452, dtype).abs()
    x = torch.full((3, 452), torch.finfo(dtype).max, device="cuda", dtype=dtype)
    x[1] = -x[1]
    x[2] = 1
    device = packed(weight)
    y = skinny(x, device)
    assert (y[0] == float("inf")).all()
    assert (y[1] == -float("inf")).all()
    assert_within_rounding(y[2:], x[2:], weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_zeros_count_as_zeros(dtype):
    weight = pruned(203, 452, dtype)
    weight[::3] = -0.0
    device = packed(weight + 0.0)
    x = inputs(6, 452, dtype)
    x[0] = -0.0
    y = skinny(x, device)
    assert (y[0] == 0).all()
    assert (y[:, ::3] == 0).all()
    assert_within_rounding(y, x, weight)
