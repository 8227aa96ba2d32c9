"""Layer norms that a kernel holds, beside the same in plain torch on the CPU."""

import pytest
import torch
from gpu_weights import error, inputs

from sparseflow.runtime import fp8
from sparseflow.runtime.normed_rows import LONGEST, normed_rows

BF16 = torch.bfloat16
WIDTHS = [8, 1000, 1152, 3072, 4096, 5120, LONGEST]


def arguments(k, batch, tokens, added, scaled, affine, modulated):
    """What is normed: all that there may be around a norm, or only some of it."""
    x = inputs(batch * tokens, k, BF16, seed=1).view(batch, tokens, k)
    table = inputs(batch * 6, k, BF16, seed=2).view(batch, 6, 1, k)
    gate, factor, shift = table[:, 0], table[:, 3], table[:, 5]  # views, a batch's six rows apart
    y = inputs(batch * tokens, k, BF16, seed=3).view(batch, tokens, k) if added else None
    scales = (torch.rand(batch, tokens, 1, device="cuda") + 0.5, torch.rand(k, device="cuda") + 0.5)
    bias = inputs(1, k, BF16, seed=4)[0]
    of_y = (*scales, bias) if scaled else (None, None, None)
    of_norm = (inputs(1, k, BF16, seed=5)[0], bias) if affine else (None, None)
    return (x, y, *of_y, gate if added else None, *of_norm, *((factor, shift) if modulated else (None, None)))


def on_cpu(args, *rest):
    return normed_rows(*(None if t is None else t.cpu() for t in args), *rest)


@pytest.mark.parametrize(
    "parts", [(1, 1, 1, 1), (1, 0, 0, 1), (0, 0, 1, 0), (0, 0, 0, 0), (1, 1, 0, 1)], ids=str
)
@pytest.mark.parametrize("k", WIDTHS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 37), (3, 50)])
def test_is_what_torch_computes(parts, k, batch, tokens):
    args = arguments(k, batch, tokens, *parts)
    expected = on_cpu(args, 1e-6, False)
    total, out, scale = normed_rows(*args, 1e-6, False)
    assert scale.numel() == 0
    assert error(out.cpu(), expected[1].double()) < 4e-3
    assert error(total.cpu(), expected[0].double()) < 4e-3

    _, rows, scale = normed_rows(*args, 1e-6, True)
    assert (rows.shape, rows.dtype, scale.shape) == (out.shape, fp8.E4M3, (*out.shape[:-1], 1))
    largest = out.double().abs().amax(-1, keepdim=True)
    torch.testing.assert_close(scale.double() * fp8.LARGEST, largest, rtol=1e-2, atol=1e-6)
    assert error(rows.double() * scale.double(), out.double()) < 4e-2


def test_a_row_of_nan_stays_one():
    args = arguments(3072, 1, 9, 1, 1, 0, 1)
    args[0][0, 4, 7] = float("nan")
    _, _, scale = normed_rows(*args, 1e-6, True)
    assert scale.isnan().flatten().tolist() == [row == 4 for row in range(9)]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({0: torch.float16}, "x must be bfloat16"),
        ({5: (2, 1, 16)}, "gate must be bfloat16"),
        ({1: None}, "y is missing"),
    ],
    ids=str,
)
def test_what_is_refused(changed, why):
    args = list(arguments(16, 1, 4, 1, 1, 0, 1))
    for index, to in changed.items():
        if isinstance(to, tuple):
            args[index] = torch.ones(to, dtype=BF16, device="cuda")
        else:
            args[index] = None if to is None else args[index].to(to)
    with pytest.raises(RuntimeError, match=why):
        normed_rows(*args, 1e-6, False)
