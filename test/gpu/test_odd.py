"""N and K that are no multiples of 64, which the layout of CUDA pads, on every path."""

import pytest
import torch
from gpu_weights import E4M3, TOLERANCE, error, inputs, linear, packed, pruned, reference

from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice

DTYPES = [torch.bfloat16, torch.float16]
SHAPES = [(200, 448), (256, 500), (1088, 72), (1003, 260), (33, 7), (1, 1), (4100, 4099)]
ROWS = (1, 3, 17, 100)
PATHS = {
    "cusparselt, algorithm 0": [1, Choice("cusparselt", 0).code],
    "skinny, variant 0": [1, Choice("skinny").code],
    "skinny, variant 3": [1, Choice("skinny", 3).code],
    "dense: the policy says so": [1, Choice("dense").code],
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_path_is_the_product_with_the_pruned_weight(shape, dtype, path):
    n, k = shape
    weight, policy = pruned(n, k, dtype), PATHS[path]
    device = packed(weight)
    for epilogue, bias_on, residual_on in (
        ("none", False, False),
        ("relu", True, False),
        ("silu", True, True),
    ):
        how = {"bias": bias_on, "residual": residual_on, "epilogue": epilogue}
        gpu.prepare(device, ROWS, policy, **how)
        for m in ROWS:
            x = inputs(m, k, dtype, seed=m)
            bias = inputs(1, n, dtype, seed=2)[0] if bias_on else None
            residual = inputs(m, n, dtype, seed=3) if residual_on else None
            y = linear(x, device, bias, residual, epilogue, policy)
            assert gpu.path(device, m, policy, **how) == path
            assert (y.dtype, y.is_contiguous()) == (dtype, True)
            assert error(y, reference(x, weight, bias, residual, epilogue)) < 2 * TOLERANCE[dtype], m


@pytest.mark.parametrize("path", PATHS)
def test_what_lies_behind_odd_rows_of_x_and_the_residual_reaches_no_result(path):
    (n, k), dtype, policy, m = (203, 452), torch.bfloat16, PATHS[path], 19
    weight = pruned(n, k, dtype)
    device = packed(weight)
    gpu.prepare(device, [m], policy, residual=True)
    x, residual = (torch.full((m + 64, w), float("nan"), device="cuda", dtype=dtype) for w in (k, n))
    x[:m], residual[:m] = inputs(m, k, dtype), inputs(m, n, dtype)
    y = linear(x[:m], device, residual=residual[:m], policy=policy)
    assert error(y, reference(x[:m], weight, residual=residual[:m])) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("path", PATHS)
def test_leading_dimensions_and_empty_inputs(path):
    (n, k), dtype, policy = (203, 452), torch.bfloat16, PATHS[path]
    weight = pruned(n, k, dtype)
    device, wide = packed(weight), inputs(24, k, dtype)
    for x in (wide.view(2, 3, 4, k), wide[0], wide[::2], wide[:0].view(0, 5, k)):
        gpu.prepare(device, [x.numel() // k], policy)
        y = linear(x, device, policy=policy)
        assert y.shape == (*x.shape[:-1], n)
        assert error(y, reference(x, weight)) < TOLERANCE[dtype]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("m", [1, 20])
def test_a_captured_graph_follows_inputs_of_odd_sizes(m, path):
    (n, k), dtype, policy = (203, 452), torch.bfloat16, PATHS[path]
    weight = pruned(n, k, dtype)
    device, x, bias = packed(weight), inputs(m, k, dtype), inputs(1, n, dtype, seed=5)[0]
    gpu.prepare(device, [m], policy, bias=True, epilogue="relu")
    linear(x, device, bias, epilogue="relu", policy=policy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = linear(x, device, bias, epilogue="relu", policy=policy)
    for seed in (7, 8):
        x.copy_(inputs(m, k, dtype, seed=seed))
        bias.copy_(inputs(1, n, dtype, seed=seed + 1)[0])
        y.fill_(float("nan"))
        graph.replay()
        assert error(y, reference(x, weight, bias, epilogue="relu")) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("dtype", "out"),
    [
        (torch.int8, torch.int8),
        (torch.int8, torch.bfloat16),
        (torch.int8, torch.int32),
        (E4M3, torch.bfloat16),
        (E4M3, E4M3),
    ],
)
@pytest.mark.parametrize("shape", [(200, 448), (130, 100), (33, 50)])
def test_eight_bit_products(shape, dtype, out):
    n, k = shape
    weight = pruned(n, k, dtype)
    device = gpu.compress(weight)
    assert torch.equal(device.dense().float(), weight.float())
    scale = torch.rand(n, device="cuda") + 0.5 if out in (torch.bfloat16, torch.int32) else None
    scale = scale if dtype == torch.int8 else None
    for m in ROWS:
        x = inputs(m, k, dtype, seed=m)
        alpha = 2.0**-5 if out == torch.int8 else 1.0
        y = torch.ops.sparseflow.cusparselt_linear(
            x, device.values, device.positions, None, None, scale, k, "none", out, alpha, 0, 0
        )
        expected = reference(x, weight) * alpha * (1 if scale is None else scale.double())
        bound = TOLERANCE[out] if scale is None else 4e-3
        if not out.is_floating_point:
            expected = expected.round().clamp(-128, 127) if out == torch.int8 else expected.round()
        assert (y.dtype, y.is_contiguous()) == (out, True)
        assert error(y, expected) <= bound, m


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
@pytest.mark.parametrize("shape", [*SHAPES, (4097, 4096), (72, 264)])
def test_decompression_gives_exactly_the_weight_without_its_padding(shape, dtype):
    weight = pruned(*shape, dtype)
    device = packed(weight)
    assert device.dense().shape == shape
    assert torch.equal(device.dense(), weight)


def test_the_memory_of_ordinary_sizes_stays_near_nine_sixteenths():
    for shape in ((1000, 4096), (4096, 11008 + 8), (50257, 1600)):
        weight = pruned(*shape, torch.bfloat16)
        before = torch.cuda.memory_allocated()
        device = packed(weight)
        assert torch.cuda.memory_allocated() - before <= device.nbytes + (
            2 << 20
        )  # what the allocator rounds
        assert device.nbytes <= 0.60 * weight.nbytes
