"""The kernel for few rows with a weight in e4m3, alone and as what ``linear_fp8`` runs by policy."""

import pytest
import torch
from gpu_weights import ACTIVATIONS, E4M3, TOLERANCE, error, inputs, packed, pruned
from torch import nn

import sparseflow as sf
from sparseflow.runtime import fp8, gpu, ops
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.packed import pack

DTYPES = [torch.bfloat16, torch.float16]
VARIANTS = range(torch.ops.sparseflow.skinny_variants(64, 64, 1))
PORTABLE = VARIANTS[:16]
THROUGH_MEMORY = 64  # added to a portable variant
IN_MEMORY = {52: 19, 53: 20, 54: 25, 55: 30, 56: 36, 57: 48, 58: 49}
GATED = [v for v in VARIANTS[28:] if v not in (52, 53, 54)]
POLICY = [1, Choice("skinny").code, 65, Choice("cusparselt").code]


def weight_of(n, k, seed=0):
    """A weight in e4m3 with rows of magnitudes far apart, and the scales of its rows."""
    q, scales = fp8.quantize_rows(
        pruned(n, k, torch.float32, seed) * torch.logspace(-3, 3, n, device="cuda")[:, None]
    )
    return packed_e4m3(q), scales.squeeze(1)


def packed_e4m3(dense):
    values, positions = ops.pack_2_4(dense.to(torch.bfloat16))
    return gpu.DeviceWeight.from_portable(values.to(E4M3), positions, dense.shape[1])


def skinny(x, weight, scales=None, bias=None, residual=None, epilogue="none", variant=-1):
    return ops.skinny_linear(
        x, weight.values, weight.positions, bias, residual, weight.in_features, epilogue, variant, scales
    )


def reference(x, weight, scales=None, bias=None, residual=None, epilogue="none"):
    y = x.double() @ weight.dense().double().T
    y = y if scales is None else y * scales.double()
    y = ACTIVATIONS[epilogue](y if bias is None else y + bias.double())
    return y if residual is None else y + residual.double()


def by_columns(y, expected):
    """The largest relative error of a column, which is of one row of W."""
    return float(((y.double() - expected).norm(dim=0) / expected.norm(dim=0).clamp(min=1e-30)).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 64), (192, 448), (1088, 320), (512, 4096), (4096, 14336)])
def test_every_number_of_rows_is_the_product_with_the_dequantised_weight(shape, dtype):
    weight, scales = weight_of(*shape)
    for m in (*range(1, 65), 65, 200):
        x = inputs(m, shape[1], dtype, seed=m)
        y, expected = skinny(x, weight, scales), reference(x, weight, scales)
        assert error(y, expected) < TOLERANCE[dtype], m
        # Scales of a millionth would make numbers that fp16 rounds to few bits.
        assert dtype == torch.float16 or by_columns(y, expected) < 3 * TOLERANCE[dtype], m


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_the_product_and_the_same_bits_each_time(variant, dtype):
    for n, k in ((64, 1024), (320, 1088), (1088, 2112)):
        weight, scales = weight_of(n, k)
        scales = scales.clamp(max=1e-2)
        for m in (1, 7, 16, 29, 64, 77, 300):
            x, bias = inputs(m, k, dtype, seed=m), inputs(1, n, dtype, seed=2)[0]
            residual = inputs(m, n, dtype, seed=3)
            y = skinny(x, weight, scales, bias, residual, "silu", variant)
            assert error(y, reference(x, weight, scales, bias, residual, "silu")) < TOLERANCE[dtype], (
                n,
                k,
                m,
            )
            for _ in range(3):
                assert torch.equal(skinny(x, weight, scales, bias, residual, "silu", variant), y)
            if variant in PORTABLE:
                other = skinny(x, weight, scales, bias, residual, "silu", variant + THROUGH_MEMORY)
                assert torch.equal(other, y), "a cluster and memory add up in one order"
            if variant in IN_MEMORY:
                other = skinny(x, weight, scales, bias, residual, "silu", IN_MEMORY[variant])
                assert torch.equal(other, y), "a cluster and memory add up in one order"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [-1, 2, 16, 30])
def test_every_number_of_e4m3_is_exact(variant, dtype):
    """Also ±448, the subnormal ones and both zeros; each alone in its sum."""
    numbers = torch.arange(256, dtype=torch.uint8, device="cuda")
    numbers = numbers[(numbers & 127) != 127].view(E4M3)  # all but NaN
    n, k = 64, 512
    dense = torch.zeros(n, k, device="cuda")
    rows, groups = torch.meshgrid(torch.arange(n), torch.arange(k // 4), indexing="ij")
    places = torch.tensor([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])[(rows + groups) % 6]
    for j in range(2):
        at = (2 * (rows * (k // 4) + groups) + j) % len(numbers)
        dense[rows.cuda(), (4 * groups + places[..., j]).cuda()] = numbers.float()[at.cuda()]
    weight = packed_e4m3(dense)
    assert weight.values.view(torch.uint8).unique().numel() >= 253
    y = skinny(torch.eye(k, device="cuda", dtype=dtype), weight, variant=variant)
    assert torch.equal(y.float().T, dense)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", ACTIVATIONS)
def test_every_epilogue_with_and_without_bias_and_residual(epilogue, dtype):
    n, k = 1088, 320
    weight, scales = weight_of(n, k)
    scales = scales.clamp(max=1e-2)
    for m in (1, 17, 64):
        x, some_bias, some_residual = (
            inputs(*s, dtype, seed=i) for i, s in enumerate(((m, k), (1, n), (m, n)))
        )
        for bias in (None, some_bias[0]):
            for residual in (None, some_residual):
                y = skinny(x, weight, scales, bias, residual, epilogue)
                assert y.dtype == dtype
                assert error(y, reference(x, weight, scales, bias, residual, epilogue)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [-1, *GATED])
def test_a_gate_and_what_it_gates_in_one_launch(variant, dtype):
    for n, k in ((128, 1024), (1408, 1088)):
        weight, scales = weight_of(n, k)
        scales, bias = scales.clamp(max=1e-2), inputs(1, n, dtype, seed=2)[0]
        for m in (1, 7, 16, 33, 64, 130):
            x = inputs(m, k, dtype, seed=m)
            for some in (None, bias):
                y = torch.ops.sparseflow.skinny_gated_linear(
                    x, weight.values, weight.positions, some, k, "silu", variant, scales
                )
                gate, up = reference(x, weight, scales, some).chunk(2, -1)
                assert error(y, torch.nn.functional.silu(gate) * up) < TOLERANCE[dtype], (n, k, m)


@pytest.mark.parametrize("shape", [(203, 452), (72, 100), (8, 64)])
def test_sizes_that_need_padding(shape):
    n, k = shape
    weight, scales = weight_of(n, k)
    for m in (1, 9, 33):
        x, residual = inputs(m, k, torch.bfloat16), inputs(m, n, torch.bfloat16)
        y = skinny(x, weight, scales, residual=residual)
        assert error(y, reference(x, weight, scales, residual=residual)) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("policy", [POLICY, [1, Choice("skinny", 30).code]])
def test_the_operator_runs_it_by_policy(policy):
    n, k = 512, 1024
    weight = pack(pruned(n, k, torch.bfloat16), "2:4-fp8")
    device = gpu.DeviceWeight(weight.values, weight.positions, k)
    for m in (1, 8, 16, 64):
        assert gpu.path(device, m, policy) == f"skinny, variant {policy[1] >> 8}"
        x, bias, residual = (inputs(*s, torch.bfloat16, seed=m) for s in ((m, k), (1, n), (m, n)))
        y = fp8.linear_fp8(
            x, weight.values, weight.positions, weight.scales, bias[0], residual, k, "silu", policy
        )
        variant = policy[1] >> 8
        assert torch.equal(y, skinny(x, device, weight.scales, bias[0], residual, "silu", variant))
        # And rows that are quantised already, as where tracing leaves their number open.
        x8, _ = fp8.quantize_rows(x)
        raw = fp8.product_fp8(x8, weight.values, weight.positions, k, policy)
        assert error(raw, x8.double() @ device.dense().double().T) < TOLERANCE[torch.bfloat16]


def test_zero_nan_and_infinite_rows():
    weight, _ = weight_of(256, 512)
    for m in (6, 64):
        x, bias = inputs(m, 512, torch.bfloat16), inputs(1, 256, torch.bfloat16)[0]
        clean = skinny(x, weight, bias=bias)
        x[1], x[2], x[3], x[4] = 0, float("nan"), float("inf"), -float("inf")
        y = skinny(x, weight, bias=bias)
        assert torch.equal(y[1], bias)
        assert y[2].isnan().all()
        assert not y[3:5].isfinite().any()
        assert torch.equal(y[0], clean[0])
        assert torch.equal(y[5:], clean[5:])


@pytest.mark.parametrize("magnitude", [1e38, 1e-30, 1e-38])
def test_rows_at_the_ends_of_the_range_keep_their_precision(magnitude):
    """bfloat16 has them; a weight brought to x's type by a factor on the sums alone would lose them."""
    weight = packed_e4m3(pruned(256, 512, torch.float32) * 0.3)
    x = (torch.randn(4, 512, device="cuda").clamp(-1, 1) * magnitude).bfloat16()
    y, expected = skinny(x, weight), reference(x, weight)
    assert y.isfinite().all()
    assert magnitude < 1e-36 or error(y, expected) < TOLERANCE[torch.bfloat16]


def test_zero_rows_of_the_weight_give_zeros():
    dense = pruned(128, 256, torch.float32)
    dense[::3] = 0
    y = skinny(inputs(5, 256, torch.bfloat16), packed_e4m3(dense))
    assert (y[:, ::3] == 0).all()
    assert (y[:, 1::3] != 0).any()


@pytest.mark.parametrize("variant", [-1, 2, THROUGH_MEMORY + 2, 30, 33, 54, 58])
@pytest.mark.parametrize("m", [1, 17, 64])
def test_a_captured_graph_follows_its_inputs(m, variant):
    weight, scales = weight_of(512, 1024)
    x = inputs(m, 1024, torch.bfloat16)
    skinny(x, weight, scales, variant=variant)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = skinny(x, weight, scales, variant=variant)
    for seed in (7, 8):
        x.copy_(inputs(m, 1024, torch.bfloat16, seed=seed))
        y.fill_(float("nan"))
        graph.replay()
        assert error(y, reference(x, weight, scales)) < TOLERANCE[torch.bfloat16]


def test_wrong_arguments_are_refused_by_name():
    weight, scales = weight_of(256, 512)
    x = inputs(4, 512, torch.bfloat16)
    with pytest.raises(RuntimeError, match="x must be bfloat16 or float16"):
        skinny(x.float(), weight)
    with pytest.raises(RuntimeError, match=r"scales must be Float \[256\]"):
        skinny(x, weight, scales[:255])
    with pytest.raises(RuntimeError, match="scales belong to values in float8_e4m3fn"):
        skinny(x, packed(pruned(256, 512, torch.bfloat16)), scales)


def test_opcheck():
    weight, scales = weight_of(192, 448)
    x = inputs(5, 448, torch.bfloat16)
    with torch.no_grad():
        # torch's check of the schema multiplies copies of the operands, which it can't in fp8.
        torch.library.opcheck(
            ops.skinny_linear,
            (x, weight.values, weight.positions, None, None, 448, "none", -1, scales),
            test_utils=("test_faketensor", "test_aot_dispatch_static"),
        )


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_a_compiled_model_decodes_by_it(inner, monkeypatch):
    def policies(shapes, dtype, device, **options):
        return dict.fromkeys(shapes, Policy.from_ints(POLICY) if dtype == E4M3 else "as if untuned")

    monkeypatch.setattr("sparseflow.runtime.products.which.policies", policies)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 256, bias=False))
    model = model.eval().to("cuda", torch.bfloat16)
    twin = nn.Sequential(nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 256, bias=False)).to(model[0].weight)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer in (twin[0], twin[2]):
            layer.weight.copy_(sf.prune_24(layer.weight))
        compiled = sf.compile(model, prune="magnitude", format="2:4-fp8", inner=inner)
        for m in (1, 4, 64, 65, 100, 3):
            x = inputs(m, 256, torch.bfloat16, seed=m)
            assert 0 < error(compiled(x), twin(x).double()) < 0.06
