"""``sparseflow::linear`` with a gated epilogue on the CPU, against fp64."""

import pytest
import torch
import torch.nn.functional as F
from parity import ACTIVATIONS, GATES, ROUNDING, gated_share

from sparseflow.runtime import ops

DENSE, CPU = 0, 1


def packed(n, k, dtype=torch.float32):
    weight = ops.prune_2_4(torch.randn(n, k).to(dtype))
    return weight, *ops.pack_2_4(weight)


def call(x, values, positions, bias=None, residual=None, epilogue="silu_gated", policy=()):
    return ops.linear(x, values, positions, bias, residual, x.shape[-1], epilogue, list(policy))


@pytest.mark.parametrize("epilogue", GATES)
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("policy", [[], [1, DENSE], [1, CPU, 17, DENSE]], ids=["sparse", "dense", "both"])
def test_the_first_half_of_the_rows_gates_the_second(policy, dtype, epilogue):
    for n, k in ((2, 3), (6, 64), (34, 130), (256, 257)):
        weight, values, positions = packed(n, k, dtype)
        for m in (0, 1, 3, 17, 64, 129):
            x = torch.randn(m, k).to(dtype)
            for bias in (None, torch.randn(n).to(dtype)):
                y = call(x, values, positions, bias, epilogue=epilogue, policy=policy)
                assert (y.dtype, y.shape) == (dtype, (m, n // 2))
                assert gated_share(y, x, weight, bias, epilogue) <= 1


@pytest.mark.parametrize("shape", [(36,), (2, 3, 36), (0, 36), (3, 0, 36)])
def test_leading_dimensions_are_kept(shape):
    weight, values, positions = packed(20, 36)
    x = torch.randn(shape)
    gate, up = F.linear(x, weight).chunk(2, -1)
    torch.testing.assert_close(call(x, values, positions), F.silu(gate) * up)


@pytest.mark.parametrize("epilogue", GATES)
@pytest.mark.parametrize("gate", [float("nan"), float("inf"), -float("inf"), 0.0])
@pytest.mark.parametrize("up", [float("nan"), float("inf"), -2.0, 0.0])
def test_nan_and_inf_of_either_half_go_where_torch_has_them(gate, up, epilogue):
    values, positions = ops.pack_2_4(torch.eye(4))
    bias = torch.tensor([gate, gate, up, up])
    y = call(torch.zeros(1, 4), values, positions, bias, epilogue=epilogue)
    # One number at a time: torch's vectors make gelu(Inf) NaN, its scalars Inf.
    expected = ACTIVATIONS[epilogue.removesuffix("_gated")](bias[:1]) * up
    torch.testing.assert_close(y[0], expected.expand(2), equal_nan=True)


def test_what_does_not_fit_a_gate_is_refused_by_name_also_before_it_runs():
    _, values, positions = packed(7, 8)
    meta = [t.to("meta") for t in (torch.randn(3, 8), values, positions)]
    for args in ((torch.randn(3, 8), values, positions), meta):
        with pytest.raises(RuntimeError, match=r"silu_gated'? needs an even N, got 7"):
            call(*args)
    _, values, positions = packed(8, 8)
    with pytest.raises(RuntimeError, match="'relu_gated' takes no residual"):
        call(torch.randn(3, 8), values, positions, residual=torch.randn(3, 8), epilogue="relu_gated")
    for name in ("none_gated", "_gated", "tanh_gated"):
        with pytest.raises(RuntimeError, match="epilogue must be none, relu"):
            call(torch.randn(3, 8), values, positions, epilogue=name)


def test_opcheck():
    _, values, positions = packed(12, 20)
    with torch.no_grad():
        torch.library.opcheck(
            ops.linear,
            (torch.randn(2, 3, 20), values, positions, torch.randn(12), None, 20, "gelu_gated", []),
        )


def test_autocast_casts_what_the_gate_multiplies():
    weight, values, positions = packed(16, 20)
    x = torch.randn(3, 20)
    with torch.autocast("cpu", torch.bfloat16):
        y = call(x, values, positions)
    assert y.dtype == torch.bfloat16
    assert gated_share(y, x.bfloat16(), weight.bfloat16(), None, "silu_gated") <= 1
