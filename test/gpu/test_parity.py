import pytest
import torch
from gpu_weights import E4M3, TOLERANCE, error, inputs, linear, packed, pruned, reference

from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice

EIGHT_BIT = [
    *((torch.int8, out) for out in (torch.int8, torch.float16, torch.bfloat16, torch.int32)),
    *((E4M3, out) for out in (E4M3, torch.bfloat16, torch.float16, torch.float32)),
]
ROWS = (1, 3, 17, 100)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("epilogue", ["none", "relu", "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("shape", [(256, 512), (1088, 320)])
def test_linear_is_the_product_with_the_pruned_weight(shape, epilogue, dtype):
    weight = pruned(*shape, dtype)
    device = packed(weight)
    for bias_on in (False, True):
        for residual_on in (False, True):
            gpu.prepare(device, ROWS, bias=bias_on, residual=residual_on, epilogue=epilogue)
            for m in ROWS:
                x = inputs(m, shape[1], dtype, seed=m)
                bias = inputs(1, shape[0], dtype, seed=2)[0] if bias_on else None
                residual = inputs(m, shape[0], dtype, seed=3) if residual_on else None
                built = gpu.stats().built
                y = linear(x, device, bias, residual, epilogue)
                assert y.dtype == dtype
                assert y.is_contiguous()
                # An activation that the library lacks rounds once more, and so does a residual after it.
                assert error(y, reference(x, weight, bias, residual, epilogue)) < 2 * TOLERANCE[dtype]
                assert gpu.stats().built == built, "the plan was prepared and yet built again"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dense_range_of_a_policy_multiplies_by_the_same_weight(dtype):
    weight = pruned(256, 512, dtype)
    device = packed(weight)
    gpu.prepare(device, [100])
    x = inputs(100, 512, dtype)
    sparse, dense = linear(x, device), linear(x, device, policy=[1, 0])
    assert error(dense, reference(x, weight)) < TOLERANCE[dtype]
    assert error(sparse, dense.double()) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize(("dtype", "out"), EIGHT_BIT)
def test_eight_bit_products(dtype, out):
    n, k = 256, 512
    weight = pruned(n, k, dtype)
    device = gpu.compress(weight)
    op = torch.ops.sparseflow.cusparselt_linear
    for m in ROWS:
        x = inputs(m, k, dtype, seed=m)
        alpha = 2.0**-5 if out == torch.int8 else 1.0
        y = op(x, device.values, device.positions, None, None, None, k, "relu", out, alpha, 0, 0)
        expected = (reference(x, weight) * alpha).clamp(min=0)
        if not out.is_floating_point:
            expected = expected.round().clamp(-128, 127) if out == torch.int8 else expected.round()
        assert y.dtype == out
        assert error(y, expected) <= TOLERANCE[out]


@pytest.mark.parametrize("out", [torch.float16, torch.bfloat16, torch.int32])
def test_int8_scales_each_output_feature_and_adds_a_bias(out):
    n, k, m = 256, 512, 33
    weight = pruned(n, k, torch.int8)
    device = gpu.compress(weight)
    x, scale = inputs(m, k, torch.int8), torch.rand(n, device="cuda") + 0.5
    bias_dtype = torch.float32 if out == torch.int32 else out
    bias = torch.randint(-50, 50, (n,), device="cuda").to(bias_dtype)
    y = torch.ops.sparseflow.cusparselt_linear(
        x, device.values, device.positions, bias, None, scale, k, "none", out, 1.0, 0, 0
    )
    expected = reference(x, weight) * scale.double() + bias.double()
    assert error(y, expected) < 4e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, E4M3])
def test_every_algorithm_gives_the_same_product(dtype):
    n, k, m = 512, 1024, 48
    weight = pruned(n, k, dtype)
    device = gpu.compress(weight)
    out = torch.bfloat16 if dtype == E4M3 else dtype
    x = inputs(m, k, dtype)
    count = torch.ops.sparseflow.cusparselt_algorithms(device.values, k, m, "none", out, False)
    assert count > 1
    for algorithm in range(count):
        if dtype != E4M3:
            gpu.prepare(device, [m], [1, Choice("cusparselt", algorithm).code], wait=False)
    torch.ops.sparseflow.plans_wait()
    for algorithm in range(count):
        y = torch.ops.sparseflow.cusparselt_linear(
            x, device.values, device.positions, None, None, None, k, "none", out, 1.0, algorithm, 0
        )
        assert error(y, reference(x, weight)) < TOLERANCE[out], algorithm


def test_leading_dimensions_strides_and_offsets_do_not_matter():
    weight = pruned(256, 512, torch.bfloat16)
    device = packed(weight)
    wide = inputs(2 * 3 * 17 + 1, 512, torch.bfloat16)
    for x in (
        wide[:102].view(2, 3, 17, 512),
        wide[1:103].view(2, 51, 512),
        wide.flatten()[4 : 4 + 17 * 512].view(17, 512),  # 8 bytes off
        wide.T.contiguous().T[:100],
        wide[::2],
        wide[0],
        wide[:0].view(0, 5, 512),
    ):
        y = linear(x, device)
        assert y.shape == (*x.shape[:-1], 256)
        assert error(y, reference(x, weight)) < TOLERANCE[torch.bfloat16]


def test_float32_which_the_library_lacks_runs_densely():
    weight, x = pruned(256, 512, torch.float32), inputs(20, 512, torch.float32)
    assert error(linear(x, packed(weight)), reference(x, weight)) < 1e-3


def test_wrong_arguments_are_refused_by_name():
    device = packed(pruned(256, 512, torch.bfloat16))
    with pytest.raises(RuntimeError, match=r"x must be BFloat16 \[\.\.\., 512\]"):
        linear(inputs(4, 512, torch.float16), device)
    with pytest.raises(RuntimeError, match="bias must be"):
        linear(inputs(4, 512, torch.bfloat16), device, bias=torch.zeros(3, device="cuda"))
    portable = device.portable_positions()
    with pytest.raises(RuntimeError, match="layout of CUDA"):
        torch.ops.sparseflow.decompress(device.values, portable, 512)
