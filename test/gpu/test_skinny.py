from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gpu_weights import ACTIVATIONS, TOLERANCE, error, inputs, packed, pruned, reference

from sparseflow.runtime import gpu, ops

ROWS = (1, 2, 3, 5, 8, 9, 16, 17, 31, 32, 33, 63, 64)
DTYPES = [torch.bfloat16, torch.float16]
VARIANTS = range(torch.ops.sparseflow.skinny_variants(64, 64, 1))
PORTABLE = VARIANTS[:16]  # those from sm_80 on; the others are for sm_90
THROUGH_MEMORY = 64  # added to a portable variant
# Those for sm_90 whose shares meet in memory, and the one with the same blocks whose shares are a cluster.
IN_MEMORY = {52: 19, 53: 20, 54: 25, 55: 30, 56: 36, 57: 48, 58: 49}
GATED = [v for v in VARIANTS[28:] if v not in (52, 53, 54)]  # the others' strips have too few rows


def skinny(x, weight, bias=None, residual=None, epilogue="none", variant=-1):
    return torch.ops.sparseflow.skinny_linear(
        x, weight.values, weight.positions, bias, residual, weight.in_features, epilogue, variant
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(64, 64), (192, 448), (1088, 320), (512, 4096), (4096, 14336), (6144, 4096)]
)
def test_every_number_of_rows_is_the_product_with_the_pruned_weight(shape, dtype):
    weight = pruned(*shape, dtype)
    device = packed(weight)
    for m in (*ROWS, 65, 200):
        x = inputs(m, shape[1], dtype, seed=m)
        assert error(skinny(x, device), reference(x, weight)) < TOLERANCE[dtype], m


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_the_product_and_the_same_bits_each_time(variant, dtype):
    for n, k in ((64, 1024), (320, 1088), (1088, 2112)):
        weight = pruned(n, k, dtype)
        device = packed(weight)
        for m in (1, 7, 16, 29, 64, 77, 300):
            x, bias = inputs(m, k, dtype, seed=m), inputs(1, n, dtype, seed=2)[0]
            residual = inputs(m, n, dtype, seed=3)
            y = skinny(x, device, bias, residual, "silu", variant)
            assert error(y, reference(x, weight, bias, residual, "silu")) < TOLERANCE[dtype], (n, k, m)
            for _ in range(3):
                assert torch.equal(skinny(x, device, bias, residual, "silu", variant), y)
            if variant in PORTABLE:
                other = skinny(x, device, bias, residual, "silu", variant + THROUGH_MEMORY)
                assert torch.equal(other, y), "a cluster and memory add up in one order"
            if variant in IN_MEMORY:
                other = skinny(x, device, bias, residual, "silu", IN_MEMORY[variant])
                assert torch.equal(other, y), "a cluster and memory add up in one order"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [-1, *GATED])
def test_a_gate_and_what_it_gates_in_one_launch(variant, dtype):
    for n, k in ((128, 1024), (1408, 1088)):
        weight = pruned(n, k, dtype)
        device, bias = packed(weight), inputs(1, n, dtype, seed=2)[0]
        for m in (1, 7, 16, 33, 64, 130):
            x = inputs(m, k, dtype, seed=m)
            for some in (None, bias):
                y = torch.ops.sparseflow.skinny_gated_linear(
                    x, device.values, device.positions, some, k, "silu", variant
                )
                gate, up = reference(x, weight, some).chunk(2, -1)
                assert error(y, torch.nn.functional.silu(gate) * up) < TOLERANCE[dtype], (n, k, m)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", ACTIVATIONS)
def test_every_epilogue_with_and_without_bias_and_residual(epilogue, dtype):
    n, k = 1088, 320
    weight = pruned(n, k, dtype)
    device = packed(weight)
    for m in (1, 17, 64):
        x, some_bias, some_residual = (
            inputs(*s, dtype, seed=i) for i, s in enumerate(((m, k), (1, n), (m, n)))
        )
        for bias in (None, some_bias[0]):
            for residual in (None, some_residual):
                y = skinny(x, device, bias, residual, epilogue)
                assert y.dtype == dtype
                assert error(y, reference(x, weight, bias, residual, epilogue)) < TOLERANCE[dtype]


@pytest.mark.parametrize("variant", VARIANTS)
def test_products_of_small_integers_are_exact(variant):
    weight = (torch.randint(-3, 4, (448, 1984), device="cuda") + 0.0).bfloat16()
    device = packed(torch.ops.sparseflow.prune_2_4(weight) + 0.0)
    for m in (1, 12, 64):
        x = torch.randint(-3, 4, (m, 1984), device="cuda").bfloat16()
        expected = (x.double() @ device.dense().double().T).bfloat16()
        assert torch.equal(skinny(x, device, variant=variant), expected)


@pytest.mark.parametrize("variant", [-1, 2, THROUGH_MEMORY + 2, 30, 33, 54, 58])
@pytest.mark.parametrize("m", [1, 17, 64])
def test_a_captured_graph_follows_its_inputs(m, variant):
    dtype = torch.bfloat16
    weight = pruned(512, 1024, dtype)
    device, x, bias = packed(weight), inputs(m, 1024, dtype), inputs(1, 512, dtype, seed=5)[0]
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y = skinny(x, device, bias, epilogue="gelu", variant=variant)
    for seed in (7, 8):
        x.copy_(inputs(m, 1024, dtype, seed=seed))
        bias.copy_(inputs(1, 512, dtype, seed=seed + 1)[0])
        y.fill_(float("nan"))
        graph.replay()
        assert error(y, reference(x, weight, bias, epilogue="gelu")) < TOLERANCE[dtype]


@pytest.mark.parametrize("variant", [3, THROUGH_MEMORY + 3, 17, 31, 54, 58])
def test_eight_threads_with_a_stream_each(variant):
    dtype = torch.bfloat16
    weight = packed(pruned(512, 1024, dtype))
    xs = [inputs(m, 1024, dtype, seed=m) for m in (1, 8, 20, 64)]
    expected = [skinny(x, weight, variant=variant) for x in xs]
    torch.cuda.synchronize()

    def wrong(thread):
        with torch.cuda.stream(torch.cuda.Stream()):
            order = [(call + thread) % len(xs) for call in range(200)]
            return [i for i in order if not torch.equal(skinny(xs[i], weight, variant=variant), expected[i])]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(wrong, range(8))) == [[]] * 8


@pytest.mark.parametrize("variant", IN_MEMORY)
def test_shares_may_meet_in_memory_that_holds_anything(variant):
    weight = packed(pruned(512, 2048, torch.bfloat16))
    x = inputs(200, 2048, torch.bfloat16)
    expected = skinny(x, weight, variant=variant)
    for turn in range(20):
        left = [torch.randint(-(2**31), 2**31 - 1, (1 << size,), device="cuda") for size in range(9, 22, 2)]
        del left
        assert torch.equal(skinny(x, weight, variant=variant), expected), turn


def test_shares_that_would_fill_the_cache_are_refused():
    weight = packed(pruned(16384, 256, torch.bfloat16))
    with pytest.raises(RuntimeError, match="needs in variant 58 69210112 bytes"):
        skinny(inputs(256, 256, torch.bfloat16), weight, variant=58)


def test_leading_dimensions_strides_and_offsets_do_not_matter():
    weight = pruned(256, 512, torch.bfloat16)
    device = packed(weight)
    wide = inputs(64, 512, torch.bfloat16)
    for x in (
        wide.view(2, 4, 8, 512),
        wide.flatten()[4 : 4 + 17 * 512].view(17, 512),  # 8 bytes off
        wide.T.contiguous().T[:9],
        wide[::2],
        wide[0],
        wide[:0].view(0, 5, 512),
    ):
        y = skinny(x, device)
        assert y.shape == (*x.shape[:-1], 256)
        assert error(y, reference(x, weight)) < TOLERANCE[torch.bfloat16]


def test_hot_rows_and_values_that_are_not_finite_stay_in_their_row_of_the_output():
    weight = pruned(256, 512, torch.bfloat16)
    device = packed(weight)
    x = inputs(6, 512, torch.bfloat16)
    x[1] *= 1e30
    x[2] *= 1e-30
    x[3] = float("nan")
    x[4] = float("inf")
    y = skinny(x, device)
    for row in (0, 1, 2, 5):
        assert error(y[row], reference(x[row], weight)) < TOLERANCE[torch.bfloat16]
    assert y[3].isnan().all()
    assert not y[4].isfinite().any()


def test_a_value_that_meets_only_dropped_places_is_not_multiplied():
    weight = torch.zeros(64, 64, device="cuda", dtype=torch.bfloat16)
    weight[:, ::4] = 1
    weight[:, 1::4] = 2
    x = inputs(2, 64, torch.bfloat16)
    x[:, 3::4] = float("nan")
    assert skinny(x, packed(weight)).isfinite().all()


def test_wrong_arguments_are_refused_by_name():
    device = packed(pruned(256, 512, torch.bfloat16))
    x = inputs(4, 512, torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"skinny_linear: x must be BFloat16 \[\.\.\., 512\]"):
        skinny(x.half(), device)
    with pytest.raises(RuntimeError, match="has the variants 0 to"):
        skinny(x, device, variant=1000)
    with pytest.raises(RuntimeError, match="epilogue must be"):
        skinny(x, device, epilogue="tanh")
    with pytest.raises(RuntimeError, match="bias must be BFloat16"):
        skinny(x, device, bias=torch.zeros(256, device="cuda"))
    with pytest.raises(RuntimeError, match="takes bfloat16, float16 and float8_e4m3fn, not Float"):
        skinny(inputs(4, 512, torch.float32), packed(pruned(256, 512, torch.float32)))
    odd = packed(pruned(203, 452, torch.bfloat16))
    apart = gpu.DeviceWeight(odd.values.clone(), odd.positions, 452)
    with pytest.raises(RuntimeError, match="positions right behind them, in one buffer"):
        skinny(inputs(4, 452, torch.bfloat16), apart)


def test_opcheck():
    device = packed(pruned(200, 448, torch.bfloat16))
    x, bias = inputs(5, 448, torch.bfloat16), inputs(1, 200, torch.bfloat16)[0]
    with torch.no_grad():
        torch.library.opcheck(
            ops.skinny_linear, (x, device.values, device.positions, bias, None, 448, "silu", -1)
        )
