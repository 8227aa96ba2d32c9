"""Products with norms in their ends, on every kind of variant, beside float64."""

import pytest
import torch
from gpu_weights import TOLERANCE, error, inputs, packed, pruned

from sparseflow.runtime import ops
from sparseflow.runtime.normed_products import PART, skinny_after_norm, skinny_before_norm

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9,
    reason="the kernel that takes a norm before it is for sm_90",
)

N, K, EPS = 768, 512, 1e-5
# One share of K, several in a cluster, several through memory; strips of 64, 128 and 256 rows.
VARIANTS = [16, 17, 19, 28, 30, 34, 36, 41, 52, 53, 54, 58]


def takes(weight, m, variant):
    """Whether the kernel has this variant for the product, without norms."""
    x = inputs(m, K, weight.values.dtype)
    try:
        ops.skinny_linear(x, weight.values, weight.positions, None, None, K, "none", variant)
    except RuntimeError:
        return False
    return True


def normed(stream, weight):
    wide = stream.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * weight.double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m", [1, 3, 8, 17, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_norm_between_two_products(variant, m, dtype):
    first, second = pruned(K, N, dtype), pruned(N, K, dtype, seed=1)
    before, after = packed(first), packed(second)
    if not takes(after, m, variant):
        pytest.skip("this GPU has no room for the variant")
    h, residual = inputs(m, N, dtype, seed=2), 4 * inputs(m, K, dtype, seed=3)
    weight, bias = 1 + inputs(1, K, dtype, seed=4)[0] / 4, inputs(1, N, dtype, seed=5)[0]
    stream, x, squares = skinny_before_norm(
        h, before.values, before.positions, None, residual, weight, N, variant
    )
    assert error(stream, h.double() @ first.double().T + residual.double()) < TOLERANCE[dtype]
    assert error(x, stream.double() * weight.double()) < TOLERANCE[dtype]
    exact = stream.double().square().view(m, K // PART, PART).sum(-1)
    torch.testing.assert_close(squares.double(), exact, rtol=1e-5, atol=1e-6)

    expected = normed(stream, weight) @ second.double().T + bias.double()
    parts = (after.values, after.positions, bias, K)
    y = skinny_after_norm(x, squares, EPS, *parts, "none", variant)
    assert error(y, expected) < 2 * TOLERANCE[dtype]
    again = skinny_after_norm(x, squares, EPS, *parts, "none", variant)
    assert torch.equal(y, again)


@pytest.mark.parametrize("m", [1, 8, 32])
@pytest.mark.parametrize("variant", [28, 34, 36, 53, 54])
def test_a_gate_after_a_norm(variant, m):
    weight = pruned(N, K, torch.bfloat16)
    device, stream = packed(weight), 3 * inputs(m, K, torch.bfloat16)
    ones = torch.ones(K, dtype=torch.bfloat16, device="cuda")
    squares = stream.float().square().view(m, K // PART, PART).sum(-1)
    y = skinny_after_norm(
        stream, squares, EPS, device.values, device.positions, None, K, "silu_gated", variant
    )
    gate, up = (normed(stream, ones) @ weight.double().T).chunk(2, -1)
    assert error(y, torch.nn.functional.silu(gate) * up) < 2 * TOLERANCE[torch.bfloat16]


def test_a_row_of_nan_stays_one():
    weight = packed(pruned(N, K, torch.bfloat16))
    x = inputs(4, K, torch.bfloat16)
    squares = x.float().square().view(4, K // PART, PART).sum(-1)
    squares[2, 5] = float("nan")
    y = skinny_after_norm(x, squares, EPS, weight.values, weight.positions, None, K, "none", 54)
    assert y.isnan().all(-1).tolist() == [False, False, True, False]
    assert not y[[0, 1, 3]].isnan().any()


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"m": 33}, "up to 32 rows"), ({"variant": 3}, "variant from 16 on"), ({"parts": 7}, "squares must be")],
    ids=str,
)
def test_what_is_refused(changed, why):
    m, variant, parts = changed.get("m", 4), changed.get("variant", 54), changed.get("parts", K // PART)
    weight = packed(pruned(N, K, torch.bfloat16))
    squares = torch.ones(m, parts, device="cuda")
    with pytest.raises(RuntimeError, match=why):
        skinny_after_norm(
            inputs(m, K, torch.bfloat16),
            squares,
            EPS,
            weight.values,
            weight.positions,
            None,
            K,
            "none",
            variant,
        )


def test_no_rows_give_none():
    weight = packed(pruned(N, K, torch.bfloat16))
    none = torch.empty(0, K, dtype=torch.bfloat16, device="cuda")
    y = skinny_after_norm(
        none,
        torch.empty(0, K // PART, device="cuda"),
        EPS,
        weight.values,
        weight.positions,
        None,
        K,
        "none",
        54,
    )
    assert y.shape == (0, N)
