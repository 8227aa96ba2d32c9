"""The kernels of one instruction set against fp64: run by test_parity.py in a child process for each set."""

from __future__ import annotations

import itertools
import sys

import torch
import torch.nn.functional as F

from sparseflow.runtime import native

ACTIVATIONS = {
    "none": lambda v: v,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
    "silu": F.silu,
}
GATES = [f"{name}_gated" for name in ACTIVATIONS if name != "none"]
SHAPES = [(1, 1), (7, 3), (16, 35), (65, 130), (130, 257), (64, 512), (33, 1001), (9, 4100)]
ROWS = [0, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 33, 64, 100, 257]
EPILOGUE_ROWS = {1, 5, 17}
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def bound(exact, magnitude, dtype):
    """Rounding of the result, and accumulated rounding in fp32: grows with the sum of magnitudes."""
    return 1.01 * ROUNDING[dtype] * exact.abs() + 6 * 2**-24 * (magnitude + 1)


def worst(dtype, n, k, m, epilogue, with_bias, with_residual):
    """The largest error as a share of the bound."""
    ops = torch.ops.sparseflow
    weight = ops.prune_2_4(torch.randn(n, k).to(dtype))
    values, positions = ops.pack_2_4(weight)
    x = torch.randn(m, k).to(dtype)
    bias = torch.randn(n).to(dtype) if with_bias else None
    residual = torch.randn(m, n).to(dtype) if with_residual else None
    y = ops.linear(x, values, positions, bias, residual, k, epilogue, [])
    assert y.dtype == dtype
    assert y.shape == (m, n)
    exact = x.double() @ weight.double().T
    magnitude = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        exact, magnitude = exact + bias.double(), magnitude + bias.double().abs()
    exact = ACTIVATIONS[epilogue](exact)
    if residual is not None:
        exact = exact + residual.double()
    share = (y.double() - exact).abs() / bound(exact, magnitude, dtype)
    return share.max().item() if m else 0.0


def gated_share(y, x, weight, bias, epilogue):
    """The largest error; allowed are the roundings of both halves, as they reach y, and that of y."""
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    magnitude = x.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.double().abs())
    (gate, up), (of_gate, of_up) = (t.chunk(2, -1) for t in (exact, bound(exact, magnitude, y.dtype)))
    act = ACTIVATIONS[epilogue.removesuffix("_gated")](gate)
    steepest = 1.13  # of any of the activations
    allowed = steepest * of_gate * (up.abs() + of_up) + (act.abs() + 1e-6) * of_up
    rounding = 1.01 * ROUNDING[y.dtype] * (act * up).abs() + 2**-24
    return float(((y.double() - act * up).abs() / (allowed + rounding)).max()) if y.numel() else 0.0


def check_gates():
    for dtype, epilogue, m in itertools.product(ROUNDING, GATES, (1, 6, 40)):
        n, k = 202, 131
        weight = torch.ops.sparseflow.prune_2_4(torch.randn(n, k).to(dtype))
        x, bias = torch.randn(m, k).to(dtype), torch.randn(n).to(dtype)
        y = torch.ops.sparseflow.linear(
            x, *torch.ops.sparseflow.pack_2_4(weight), bias, None, k, epilogue, []
        )
        assert gated_share(y, x, weight, bias, epilogue) <= 1, (dtype, epilogue, m)


def cases():
    for dtype in ROUNDING:  # tasks of many rows of W, in several stretches of k, over two panels of x
        yield dtype, 300, 1030, 600, "silu", True, True
    for dtype, (n, k), m in itertools.product(ROUNDING, SHAPES, ROWS):
        yield dtype, n, k, m, "none", False, False
        if m in EPILOGUE_ROWS:
            for epilogue in ACTIVATIONS:
                yield dtype, n, k, m, epilogue, True, True


def check_nan_and_inf():
    """NaN and Inf of x reach y through kept places, however many rows there are, and no other row of y."""
    ops = torch.ops.sparseflow
    for dtype, m, bad in itertools.product(ROUNDING, (1, 4, 6, 20), (float("nan"), float("inf"))):
        weight = ops.prune_2_4(torch.randn(24, 70).to(dtype))
        values, positions = ops.pack_2_4(weight)
        x = torch.randn(m, 70).to(dtype)
        x[0, 33] = bad
        y = ops.linear(x, values, positions, None, None, 70, "none", [])
        assert not y[0, weight[:, 33] != 0].isfinite().any(), (dtype, m, bad)
        assert y[1:].isfinite().all()


def check_same_row_in_any_batch():
    ops = torch.ops.sparseflow
    for dtype in ROUNDING:
        weight = ops.prune_2_4(torch.randn(70, 515).to(dtype))
        values, positions = ops.pack_2_4(weight)
        x = torch.randn(300, 515).to(dtype)
        alone = ops.linear(x[:1], values, positions, None, None, 515, "none", [])
        limit = bound(alone[0].double(), x[0].double().abs() @ weight.double().abs().T, dtype)
        for m in (2, 4, 5, 12, 13, 64, 100, 300):
            y = ops.linear(x[:m], values, positions, None, None, 515, "none", [])
            assert ((y[0] - alone[0]).double().abs() <= 2 * limit).all(), (dtype, m)


def main() -> int:
    native.load()
    torch.manual_seed(int(sys.argv[2]))
    torch.set_num_threads(2)
    assert torch.ops.sparseflow.cpu_isa() == sys.argv[1]
    failed = 0
    for case in cases():
        share = worst(*case)
        if not share <= 1:
            failed += 1
            print(*case, f"error is {share:.3g} of the bound")
    check_nan_and_inf()
    check_same_row_in_any_batch()
    check_gates()
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
