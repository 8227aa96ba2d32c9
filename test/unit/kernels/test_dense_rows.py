"""`sparseflow::dense_rows`: the dense product for few rows of x, against fp64."""

from __future__ import annotations

import pytest
import torch

from sparseflow.runtime.ops import dense_rows

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    ("shape", "n", "k"),
    [
        ((1,), 1, 1),
        ((1, 1), 7, 3),
        ((), 64, 576),
        ((3,), 33, 65),
        ((2, 20), 130, 31),
        ((0,), 5, 8),
        ((2,), 0, 8),
    ],
)
def test_it_is_the_product(dtype: torch.dtype, bias: bool, shape: tuple[int, ...], n: int, k: int) -> None:
    x, weight = torch.randn(*shape, k).to(dtype), torch.randn(n, k).to(dtype)
    added = torch.randn(n).to(dtype) if bias else None
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if added is None else added.double())
    found = dense_rows(x, weight, added)
    assert (found.dtype, found.shape) == (dtype, exact.shape)
    scale = max(1.0, k**0.5)
    assert (
        (found.double() - exact).abs().max().item() <= TOLERANCE[dtype] * 4 * scale
        if n and x.numel()
        else True
    )


def test_rows_of_a_wider_tensor_and_a_large_weight() -> None:
    wide, weight = torch.randn(4, 200), torch.randn(5000, 96)
    found = dense_rows(wide[:, 8:104], weight, None)
    assert torch.allclose(found, torch.nn.functional.linear(wide[:, 8:104], weight), atol=1e-4)


def test_nan_and_infinity_reach_their_rows_only() -> None:
    x, weight = torch.ones(1, 8), torch.ones(4, 8)
    weight[1, 3], weight[2, 5] = float("nan"), float("inf")
    found = dense_rows(x, weight, None)[0]
    assert found[1].isnan()
    assert found[2] == float("inf")
    assert found[0] == found[3] == 8


@pytest.mark.parametrize(
    ("x", "weight", "bias", "why"),
    [
        (torch.ones(1, 8), torch.ones(4, 9), None, r"x must be \[\.\.\., K\]"),
        (torch.ones(1, 8).half(), torch.ones(4, 8), None, "one dtype"),
        (torch.ones(1, 8), torch.ones(8, 4).t(), None, "contiguous matrix"),
        (torch.ones(1, 8), torch.ones(4, 8), torch.ones(3), "bias must be"),
    ],
    ids=["K", "dtype", "strides", "bias"],
)
def test_what_it_cannot_take_is_named(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, why: str
) -> None:
    with pytest.raises(RuntimeError, match=why):
        dense_rows(x, weight, bias)
