"""The kernel for many rows in fp8: every variant against fp64 of the dequantised operands."""

import pytest
import torch
from gpu_weights import ACTIVATIONS, E4M3, error, inputs, packed, pruned
from torch._subclasses.fake_tensor import FakeTensorMode

from sparseflow.runtime import fp8, gpu, ops
from sparseflow.runtime.kernels import Choice, Problem, find
from sparseflow.runtime.packed import pack

VARIANTS = range(torch.ops.sparseflow.wide_variants(64, 64, 64))
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0),
    reason="this GPU has no wgmma",
)

# Sums are of fp32, but tensor cores add fp8 products with few bits; and y is rounded to 16 bits.
BOUND = 6e-3

# Whether an operator writes to its arguments can't be checked: torch compares none in e4m3.
CHECKS = ("test_autograd_registration", "test_faketensor")


def policy_of(variant):
    return [1, Choice("wide", variant).code]


def device_of(weight):
    return gpu.DeviceWeight(weight.values, weight.positions, weight.in_features)


def runs_wide(weight, m, variant, epilogue="none"):
    path = gpu.path(device_of(weight), m, policy_of(variant), epilogue=epilogue)
    return path.startswith(f"wide, variant {variant}")


def run(x, weight, variant, bias=None, residual=None, epilogue="none"):
    values, positions, scales, k = weight.values, weight.positions, weight.scales, weight.in_features
    return fp8.linear_fp8(x, values, positions, scales, bias, residual, k, epilogue, policy_of(variant))


def reference(x, weight, bias=None, residual=None, epilogue="none"):
    x8, scale = fp8.quantize_rows(x)
    w = weight.format.dense(weight.tensors, weight.in_features).double() * weight.scales.double()[:, None]
    y = (x8.double() * scale.double()) @ w.T
    y = y if bias is None else y + bias.double()
    if epilogue.endswith("_gated"):
        gate, up = y.chunk(2, -1)
        return ACTIVATIONS[epilogue.removesuffix("_gated")](gate) * up
    y = ACTIVATIONS[epilogue](y)
    return y if residual is None else y + residual.double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(256, 1024), (328, 1088), (8, 528), (1096, 592)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_is_the_product_of_the_dequantised_operands(variant, shape, dtype):
    n, k = shape
    weight = pack(pruned(n, k, dtype), "2:4-fp8")
    for m, epilogue in ((1, "none"), (64, "relu"), (77, "silu"), (129, "gelu"), (300, "gelu_tanh")):
        if not runs_wide(weight, m, variant):
            assert "K to be at least" in gpu.path(device_of(weight), m, policy_of(variant))
            continue
        x, bias, residual = (inputs(*size, dtype, seed=m) for size in ((m, k), (1, n), (m, n)))
        for extra in ((None, None), (bias[0], None), (bias[0], residual)):
            y = run(x, weight, variant, *extra, epilogue)
            assert (y.dtype, y.is_contiguous()) == (dtype, True)
            assert error(y, reference(x, weight, *extra, epilogue)) < BOUND, m
            assert torch.equal(y, run(x, weight, variant, *extra, epilogue))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gate_is_part_of_it_or_follows(variant, dtype):
    n, k = 1408, 1088
    weight, bias = pack(pruned(n, k, dtype), "2:4-fp8"), inputs(1, n, dtype, seed=2)[0]
    for m, activation in ((33, "silu"), (200, "gelu_tanh")):
        assert "; the gate " in gpu.path(device_of(weight), m, policy_of(variant), epilogue="silu_gated")
        x, epilogue = inputs(m, k, dtype, seed=m), f"{activation}_gated"
        y = run(x, weight, variant, bias, epilogue=epilogue)
        assert (y.dtype, y.shape) == (dtype, (m, n // 2))
        assert error(y, reference(x, weight, bias, epilogue=epilogue)) < 2 * BOUND


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_tiles_than_multiprocessors(variant):
    weight = pack(pruned(4096 + 64, 1024, torch.bfloat16), "2:4-fp8")
    x = inputs(1500, 1024, torch.bfloat16)
    assert error(run(x, weight, variant), reference(x, weight)) < BOUND


def test_zero_nan_and_infinite_rows_and_empty_batches():
    weight = pack(pruned(256, 512, torch.bfloat16), "2:4-fp8")
    x = inputs(70, 512, torch.bfloat16)
    x[3], x[5, 7], x[69, 0] = 0, float("nan"), float("inf")
    y = run(x, weight, 0)
    assert y[[5, 69]].isnan().all()
    assert (y[3] == 0).all()
    fine = [row for row in range(70) if row not in (3, 5, 69)]
    assert error(y[fine], reference(x[fine], weight)) < BOUND
    assert run(x[:0], weight, 0).shape == (0, 256)


def test_the_product_alone_and_its_operator():
    weight = pack(pruned(256, 512, torch.bfloat16), "2:4-fp8")
    x = inputs(96, 512, torch.bfloat16).to(E4M3)
    args = (x, weight.values, weight.positions, 512)
    y = ops.wide_linear(*args, 0)
    assert (y.dtype, y.shape) == (torch.bfloat16, (96, 256))
    dense = weight.format.dense(weight.tensors, weight.in_features)
    assert error(y, x.double() @ dense.double().T) < BOUND
    assert torch.equal(y, fp8.product_fp8(*args, policy_of(0)))
    # opcheck would run the operator on clones, which lose the layout that it asks for.
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = ops.wide_linear(*args, 0)
    assert (fake.dtype, fake.shape) == (y.dtype, y.shape)


@pytest.mark.parametrize("policy", [policy_of(0), [1, Choice("skinny").code], [1, 0]])
def test_quantised_rows_take_every_route(policy):
    weight = pack(pruned(256, 512, torch.float16), "2:4-fp8")
    x, bias = inputs(70, 512, torch.float16), inputs(1, 256, torch.float16)[0]
    x8, scale = fp8.quantize_rows(x)
    args = (x8, scale, weight.values, weight.positions, weight.scales, bias, None, 512, "silu_gated")
    y = fp8.linear_fp8_quantized(*args, torch.float16, policy)
    assert (y.dtype, y.shape) == (torch.float16, (70, 128))
    # The other routes round the product to bfloat16.
    assert error(y, reference(x, weight, bias, epilogue="silu_gated")) < 2 * BOUND
    torch.library.opcheck(fp8.linear_fp8_quantized, (*args, torch.float16, policy), test_utils=CHECKS)


@pytest.mark.parametrize(
    "policy", [policy_of(0), [1, Choice("skinny").code], [1, 0], [1, Choice("cusparselt").code]]
)
@pytest.mark.parametrize("epilogue", ["none", "silu_gated"])
def test_rows_in_both_forms_take_every_route(policy, epilogue):
    weight = pack(pruned(256, 512, torch.bfloat16), "2:4-fp8")
    x, bias = inputs(70, 512, torch.bfloat16), inputs(1, 256, torch.bfloat16)[0]
    rest = (weight.values, weight.positions, weight.scales, bias, None, 512, epilogue, policy)
    args = (x, *fp8.quantize_rows(x), *rest)
    gpu.prepare(weight, [70], policy)
    assert error(fp8.linear_fp8_both(*args), fp8.linear_fp8_fused(x, *rest)) < BOUND
    torch.library.opcheck(fp8.linear_fp8_both, args, test_utils=CHECKS)


def test_a_kernel_for_few_rows_takes_them_as_they_are():
    weight = pack(pruned(256, 512, torch.bfloat16), "2:4-fp8")
    x, few = inputs(8, 512, torch.bfloat16), [1, Choice("skinny").code]
    x8, scale = fp8.quantize_rows(torch.zeros_like(x))  # which only the other routes read
    rest = (weight.values, weight.positions, weight.scales, None, None, 512, "none", few)
    assert torch.equal(fp8.linear_fp8_both(x, x8, scale, *rest), fp8.linear_fp8_fused(x, *rest))


@pytest.mark.parametrize("m", [8, 96])
def test_a_compiled_layer_after_a_norm_serves_every_number_of_rows(m):
    weight = pack(pruned(256, 512, torch.bfloat16), "2:4-fp8")
    policy = [1, Choice("skinny").code, 65, Choice("wide").code]
    rest = (weight.values, weight.positions, weight.scales, None, None, 512, "none", policy)

    def layer(x):
        return fp8.linear_fp8_after_norm(torch.nn.functional.rms_norm(x, (512,)), *rest)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    compiled(inputs(40, 512, torch.bfloat16))
    x = inputs(m, 512, torch.bfloat16)
    # The kernel for few rows doesn't round them to e4m3.
    assert error(compiled(x), reference(torch.nn.functional.rms_norm(x, (512,)), weight)) < 4e-2


def test_a_compiled_layer_fuses_the_quantising():
    weight = pack(pruned(256, 512, torch.bfloat16), "2:4-fp8")
    x = inputs(96, 512, torch.bfloat16)
    values, positions, scales, policy = weight.values, weight.positions, weight.scales, policy_of(0)

    def layer(x):
        y = fp8.linear_fp8(x * 2, values, positions, scales, None, None, 512, "silu", policy)
        return y + 1

    compiled = torch.compile(layer, fullgraph=True)
    assert error(compiled(x), reference(x * 2, weight, epilogue="silu") + 1) < BOUND


def test_refusals_say_why():
    ragged = pack(pruned(256, 520, torch.bfloat16), "2:4-fp8")
    path = gpu.path(device_of(ragged), 64, policy_of(0))
    assert path == "dense: the kernel for many rows needs K to be a multiple of 16, got K=520"
    assert "has the variants 0 to" in gpu.path(device_of(ragged), 64, policy_of(len(VARIANTS)))
    wide = packed(pruned(256, 512, torch.bfloat16))
    assert "takes float8_e4m3fn, not BFloat16" in gpu.path(wide, 64, policy_of(0))
    with pytest.raises(RuntimeError, match="wide_linear: x must be Float8_e4m3fn"):
        torch.ops.sparseflow.wide_linear(
            inputs(4, 512, torch.bfloat16), wide.values.to(E4M3), wide.positions, 512, 0
        )


def test_the_tuner_tries_every_variant():
    problem = Problem("float8_e4m3fn", 256, 512, "cuda:0", 64, "2:4-fp8")
    assert find("wide").can_implement(problem) is None
    assert [choice.algorithm for choice in find("wide").candidates(problem)] == list(VARIANTS)
