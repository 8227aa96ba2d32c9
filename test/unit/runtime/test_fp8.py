"""fp8 layers on the CPU against the fp64 product of what their quantised values stand for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from sparseflow.errors import ArgumentError, InferenceOnlyError, WeightError
from sparseflow.runtime import PackedWeight, compress_2_4, epilogues, fp8, prune_24
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.kernels import find
from sparseflow.runtime.packed import pack

N, K = 64, 128
ACTIVATIONS = {
    "none": lambda y: y,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


def packed_of(n=N, k=K, dtype=torch.bfloat16, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return compress_2_4(prune_24((torch.randn(n, k, generator=generator) * scale).to(dtype)))


def quantize(packed):
    return pack(packed.unpack(), "2:4-fp8")


def run(x, weight, bias=None, residual=None, epilogue="none", policy=(), dense=None):
    return fp8.linear_fp8(
        x,
        weight.values,
        weight.positions,
        weight.scales,
        bias,
        residual,
        weight.in_features,
        epilogue,
        list(policy),
        dense,
    )


def dequantized(weight):
    dense = weight.format.dense(weight.tensors, weight.in_features)
    return dense.double() * weight.scales.double()[:, None]


def reference(x, weight, bias=None, residual=None, epilogue="none"):
    x8, scale = fp8.quantize_rows(x)
    y = x8.double() * scale.double() @ dequantized(weight).T
    y = ACTIVATIONS[epilogue](y if bias is None else y + bias.double())
    return y if residual is None else y + residual.double()


def error(y, expected):
    assert y.shape == expected.shape
    return float((y.double() - expected).norm() / expected.norm().clamp(min=1e-300))


# A product is rounded to bfloat16, and the result once more; one rounding is 1.7e-3 in the norm.
BOUND = 4e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("epilogue", ACTIVATIONS)
@pytest.mark.parametrize("lead", [(1,), (7,), (2, 33), ()])
def test_is_the_product_of_the_dequantised_operands(lead, epilogue, dtype):
    torch.manual_seed(1)
    weight = quantize(packed_of(dtype=dtype))
    x, bias, residual = torch.randn(*lead, K), torch.randn(N), torch.randn(*lead, N)
    x, bias, residual = x.to(dtype), bias.to(dtype), residual.to(dtype)
    for extra in ((None, None), (bias, None), (bias, residual)):
        y = run(x, weight, *extra, epilogue)
        assert y.dtype == dtype
        assert error(y, reference(x, weight, *extra, epilogue)) < BOUND


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "none"])
@pytest.mark.parametrize("lead", [(1,), (2, 33), (), (0,)])
def test_a_gate_is_the_product_of_both_halves(lead, activation, dtype):
    torch.manual_seed(2)
    weight = quantize(packed_of(dtype=dtype))
    x, bias = torch.randn(*lead, K).to(dtype), torch.randn(N).to(dtype)
    for extra in (None, bias):
        gate, up = reference(x, weight, extra).chunk(2, dim=-1)
        y = run(x, weight, extra, epilogue=f"{activation}_gated")
        assert y.dtype == dtype
        # Both halves are rounded to bfloat16.
        assert error(y, ACTIVATIONS[activation](gate) * up) < 1.5 * BOUND


def test_a_gate_without_halves_or_with_a_residual_is_refused():
    x, weight = torch.randn(2, K).bfloat16(), quantize(packed_of())
    with pytest.raises(RuntimeError, match="silu_gated takes no residual"):
        run(x, weight, None, torch.zeros(2, N // 2).bfloat16(), "silu_gated")
    with pytest.raises(RuntimeError, match="silu_gated needs an even N, got 63"):
        run(x, quantize(packed_of(63)), epilogue="silu_gated")


def test_is_near_the_product_that_was_not_quantised():
    packed = packed_of(256, 512)
    x = torch.randn(40, 512).bfloat16()
    # A rounding to e4m3 is 2.6e-2 in the norm; there are two, independent.
    expected = x.double() @ packed.unpack().double().T
    assert 0.01 < error(run(x, quantize(packed)), expected) < 0.045


def test_an_empty_batch_gives_an_empty_result():
    weight = quantize(packed_of())
    for lead in ((0,), (3, 0)):
        assert run(torch.empty(*lead, K).bfloat16(), weight).shape == (*lead, N)


def test_the_dense_form_and_a_policy_change_nothing():
    weight = quantize(packed_of())
    x = torch.randn(5, K).bfloat16()
    weight.keep_dense()
    assert torch.equal(run(x, weight), run(x, weight, policy=[1, 0], dense=weight.dense))


@given(st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 2**16))
def test_rows_of_any_magnitude_keep_their_relative_precision(x_power, w_power, seed):
    packed = packed_of(8, 16, torch.float32, seed, scale=10.0**w_power)
    weight = quantize(packed)
    assert weight.format.error(packed.unpack(), weight.tensors) < 0.04
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed)) * 10.0**x_power
    x8, scale = fp8.quantize_rows(x)
    assert torch.equal(x8.float().abs().amax(-1), torch.full((3,), fp8.LARGEST))
    # Half a step of e4m3: 2^-4 of the value, or of the smallest normal's.
    bound = torch.maximum(x.double().abs() * 2.0**-4, scale.double() * 2.0**-10) * 1.001
    assert ((x8.double() * scale.double() - x.double()).abs() <= bound).all()


@pytest.mark.parametrize("k", [8, 576, 2304])
@pytest.mark.parametrize("scale", [1.0, 3e-3, 7e19, 1e-25])
def test_a_weight_that_is_in_e4m3_already_keeps_its_numbers(scale, k):
    torch.manual_seed(4)
    for rows in (torch.randn(16, k), torch.randn(16, k) * torch.logspace(-2, 2, 16)[:, None]):
        numbers = (rows * (100 / rows.abs().max())).to(fp8.E4M3)  # by one scale of the whole matrix
        for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8)):
            weight = (numbers.float() * scale).to(dtype)
            again, scales = fp8.quantize_weight(weight)
            found, exact = again.double() * scales.double(), numbers.double() * scale
            assert ((found - exact).abs() <= bound * exact.abs()).all()


def test_searched_scales_lose_less_than_those_of_the_largest_magnitude():
    torch.manual_seed(5)
    weight = torch.randn(64, 512)

    def lost(values, scales):
        return (values.double() * scales.double() - weight.double()).square().sum(-1)

    plain, searched = lost(*fp8.quantize_rows(weight)), lost(*fp8.quantize_weight(weight))
    assert (searched <= plain).all()
    assert searched.sum() < 0.95 * plain.sum()


def test_searching_a_scale_keeps_rows_of_zeros_nan_and_infinity():
    weight = torch.randn(4, 32)
    weight[0], weight[1, 3], weight[2, 4] = 0, float("nan"), -float("inf")
    values, scales = fp8.quantize_weight(weight)
    assert (values[0].float() == 0).all()
    assert scales[0] == fp8.SMALLEST_SCALE
    assert scales[1:3].isnan().all()
    assert scales[3].isfinite()


@pytest.mark.parametrize("magnitude", [3e38, 1e-30, 1e-38, 1e-40])
def test_the_ends_of_the_range_neither_overflow_nor_become_nan(magnitude):
    weight = quantize(packed_of(scale=0.01))
    x = (torch.randn(4, K).clamp(-1, 1) * magnitude).bfloat16()
    y = run(x, weight)
    assert y.isfinite().all()
    # Below 1e-36 a row's smallest elements go to zero.
    assert magnitude < 1e-36 or error(y, reference(x, weight)) < BOUND


def test_a_zero_row_gives_the_bias_and_a_zero_row_of_w_too():
    packed = packed_of()
    packed.values[5] = 0
    weight = quantize(packed)
    x, bias = torch.randn(4, K).bfloat16(), torch.randn(N).bfloat16()
    x[2] = 0
    y = run(x, weight, bias)
    assert torch.equal(y[2], bias)
    assert torch.equal(y[:, 5], bias[5].expand(4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_with_nan_or_inf_is_nan_and_the_others_are_not_touched(bad):
    weight = quantize(packed_of())
    x = torch.randn(4, K).bfloat16()
    expected = run(x, weight)
    x[1, 7] = bad
    y = run(x, weight)
    assert y[1].isnan().all()
    assert torch.equal(y[[0, 2, 3]], expected[[0, 2, 3]])


def test_a_weight_survives_its_state_dict_casts_and_copies():
    weight = quantize(packed_of())
    loaded = PackedWeight.empty(N, K, format="2:4-fp8")
    loaded.load_state_dict(weight.state_dict())
    for twin in (loaded, copy.deepcopy(weight).half(), copy.deepcopy(weight).to(torch.float32)):
        assert (twin.values.dtype, twin.scales.dtype) == (fp8.E4M3, torch.float32)
        assert torch.equal(dequantized(twin), dequantized(weight))
    assert weight.nbytes == N * K // 2 + N * K // 8 + 4 * N


def test_wrong_weights_are_refused():
    weight = quantize(packed_of())
    values, positions, scales = weight.tensors
    for tensors, dtype, rule in (
        ((values, positions, scales[:3]), torch.bfloat16, r"and scales \[64\], got"),
        ((values.float(), positions, scales), torch.bfloat16, "float8_e4m3fn"),
        ((values, positions), torch.bfloat16, r"expected 3 tensors \(values, positions, scales\), got 2"),
        ((values, positions, scales), None, "doesn't say of which dtype the weight was"),
        ((values, positions, scales), torch.float64, "expected a dtype of float32, bfloat16, float16"),
    ):
        with pytest.raises(ArgumentError, match=rule):
            PackedWeight(tensors, K, "2:4-fp8", dtype)
    bad = weight.state_dict()
    bad["values"] = bad["values"].float().fill_(float("nan")).to(fp8.E4M3)
    with pytest.raises(WeightError, match="nan"):
        PackedWeight.empty(N, K, format="2:4-fp8").load_state_dict(bad)


def test_wrong_arguments_are_refused_by_name():
    weight, x = quantize(packed_of()), torch.randn(2, K).bfloat16()
    with pytest.raises(RuntimeError, match=r"x must be \[\.\.\., 128\]"):
        run(x[:, :64], weight)
    with pytest.raises(RuntimeError, match="epilogue must be one of none, relu"):
        run(x, weight, epilogue="tanh")
    with pytest.raises(InferenceOnlyError, match="linear_fp8"):
        run(x.float().requires_grad_(), weight)


def test_opcheck_of_the_product():
    weight = quantize(packed_of())
    x8, _ = fp8.quantize_rows(torch.randn(3, K))
    arguments = (x8, weight.values, weight.positions, K, [1, 0])
    # The other tests multiply e4m3 by a number, which torch can't.
    torch.library.opcheck(
        fp8.product_fp8, arguments, test_utils=("test_faketensor", "test_aot_dispatch_dynamic")
    )


def test_autocast_gives_the_autocast_dtype():
    weight, x = quantize(packed_of()), torch.randn(3, K)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(x, weight, torch.randn(N))
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tracing_leaves_only_the_product_opaque(device):
    shapes = [((5, K), torch.bfloat16), ((N, K // 2), fp8.E4M3), ((N * K // 8,), torch.uint8)]
    with FakeTensorMode():
        args = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in shapes]
        scales = torch.empty(N, device=device)
        graph = make_fx(lambda *a: fp8.linear_fp8(*a, scales, None, None, K, "silu", []))(*args)
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert [name for name in called if "sparseflow" in name] == ["sparseflow.product_fp8.default"]


@pytest.mark.parametrize(
    ("device", "policy", "rows", "left"),
    [
        ("cuda", "1:skinny@5,65:cusparselt@3", 64, "linear_fp8_fused"),
        ("cuda", "1:skinny@5,65:cusparselt@3", 65, "product_fp8"),
        ("cuda", "1:cusparselt@3,16:skinny@0,32:dense", 8, "product_fp8"),
        ("cuda", "1:cusparselt@3,16:skinny@0,32:dense", 16, "linear_fp8_fused"),
        ("cuda", "1:cusparselt@3,16:skinny@0,32:dense", 32, "product_fp8"),
        ("cuda", "1:skinny@5,65:wide@2", 65, "linear_fp8_quantized"),
        ("cuda", "1:skinny@5,65:wide@2", 64, "linear_fp8_fused"),
        ("cpu", "1:skinny@5", 4, "product_fp8"),
        ("cpu", "1:wide@5", 4, "product_fp8"),
    ],
)
def test_tracing_leaves_the_layer_whole_where_one_kernel_runs_it(device, policy, rows, left):
    x, values, positions = (1, rows, K), (N, K // 2), (N * K // 8,)
    shapes = [(x, torch.bfloat16), (values, fp8.E4M3), (positions, torch.uint8)]
    for epilogue, n in (("silu", N), ("silu_gated", N // 2)):
        with FakeTensorMode():
            args = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in shapes]
            scales, codes = torch.empty(N, device=device), Policy.parse(policy).to_ints()

            def layer(*a, scales=scales, codes=codes, epilogue=epilogue):
                return fp8.linear_fp8(*a, scales, None, None, K, epilogue, codes)

            graph = make_fx(layer)(*args)
        called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert [name for name in called if "sparseflow" in name] == [f"sparseflow.{left}.default"]
        (result,) = graph.graph.output_node().args
        assert result.meta["val"].shape == (1, rows, n)


def test_after_a_norm_a_program_for_all_numbers_of_rows_has_them_in_both_forms():
    graphs = []

    def record(graph, _):
        graphs.append(graph)
        return lambda *_: [torch.zeros(1)]

    weight, policy = quantize(packed_of()), Policy.parse("1:skinny@5,65:wide@2").to_ints()
    parts = weight.values, weight.positions, weight.scales

    def layer(x):
        return fp8.linear_fp8_after_norm(x, *parts, None, None, K, "silu", policy)

    torch.compile(layer, backend=record, fullgraph=True, dynamic=True)(
        torch.randn(5, K, dtype=torch.bfloat16)
    )
    nodes = [node for node in graphs[0].graph.nodes if node.op.startswith("call")]
    (product,) = [node for node in nodes if "sparseflow" in str(node.target)]
    assert product.target is torch.ops.sparseflow.linear_fp8_both.default
    x, x8, scale = (node.meta["example_value"] for node in product.args[:3])
    assert (x.dtype, x8.dtype, scale.dtype) == (torch.bfloat16, fp8.E4M3, torch.float32)
    assert x8.shape == x.shape
    with pytest.raises(NotImplementedError):  # nothing runs it on a CPU
        layer(torch.randn(5, K, dtype=torch.bfloat16))


def test_both_forms_must_be_the_same_rows():
    with FakeTensorMode():
        x, x8 = torch.empty(5, K, dtype=torch.bfloat16), torch.empty(4, K, dtype=fp8.E4M3)
        values, positions = torch.empty(N, K // 2, dtype=fp8.E4M3), torch.empty(N * K // 8, dtype=torch.uint8)
        rest = (torch.empty(5), values, positions, torch.empty(N), None, None, K, "none", [1, 3])
        with pytest.raises(RuntimeError, match="x8 must be x in"):
            fp8.linear_fp8_both(x, x8, *rest)


BY_ROWS, PRODUCT = "aten._scaled_mm.default", "sparseflow.product_fp8.default"


@pytest.mark.parametrize(
    ("rows", "dtype", "policy", "kept", "left"),
    [
        (fp8.BY_ROWS, torch.bfloat16, "1:dense", True, BY_ROWS),
        (fp8.BY_ROWS, torch.bfloat16, "1:wide@2,512:dense", True, BY_ROWS),
        (fp8.BY_ROWS - 1, torch.bfloat16, "1:dense", True, PRODUCT),
        (fp8.BY_ROWS, torch.bfloat16, "1:dense", False, PRODUCT),
        (fp8.BY_ROWS, torch.float16, "1:dense", True, PRODUCT),
        (fp8.BY_ROWS, torch.bfloat16, "1:cusparselt@3", True, PRODUCT),
    ],
)
@pytest.mark.parametrize("epilogue", ["none", "gelu_tanh", "silu_gated"])
def test_many_dense_rows_are_scaled_by_the_product_itself(rows, dtype, policy, kept, left, epilogue):
    """As a dense model's are: nothing between the product and what reads it, but the layer's activation."""
    with FakeTensorMode():
        x, bias = (torch.empty(size, dtype=dtype, device="cuda") for size in ((2, rows // 2, K), (N,)))
        x = x if rows % 2 == 0 else torch.empty(1, rows, K, dtype=dtype, device="cuda")
        values, dense = (torch.empty(N, k, dtype=fp8.E4M3, device="cuda") for k in (K // 2, K))
        positions = torch.empty(N * K // 8, dtype=torch.uint8, device="cuda")
        scales, codes = torch.empty(N, device="cuda"), Policy.parse(policy).to_ints()

        def layer(x, values, positions, dense):
            given = dense if kept else None
            return fp8.linear_fp8(x, values, positions, scales, bias, None, K, epilogue, codes, given)

        graph = make_fx(layer)(x, values, positions, dense).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert [name for name in called if "sparseflow" in name or "scaled_mm" in name] == [left]
    after = called[called.index(left) + 1 :]
    if (left, epilogue) == (BY_ROWS, "none"):
        assert set(after) <= {"aten.view.default"}
    (result,) = graph.output_node().args
    n = N // 2 if epilogue == "silu_gated" else N
    assert (result.meta["val"].shape, result.meta["val"].dtype) == ((*x.shape[:-1], n), dtype)


def test_gelu_by_the_sigmoid_is_that_by_the_hyperbolic_tangent():
    y = torch.linspace(-30, 30, 100_001, dtype=torch.float64)
    torch.testing.assert_close(epilogues.gelu_tanh(y), F.gelu(y, approximate="tanh"), rtol=0, atol=1e-14)
    special = torch.tensor([float("inf"), float("nan"), -1e30, 1e30])
    found = epilogues.gelu_tanh(special)
    assert found.isnan().tolist() == [False, True, False, False]
    assert torch.equal(found[[0, 2, 3]], torch.tensor([float("inf"), 0.0, 1e30]))


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("epilogue", ACTIVATIONS)
def test_what_torch_scales_by_rows_is_the_same_layer(epilogue, with_residual):
    weight = quantize(packed_of())
    weight.keep_dense()
    x, bias = torch.randn(2, 300, K).bfloat16(), torch.randn(N).bfloat16()
    residual = torch.randn(2, 300, N).bfloat16() if with_residual else None
    y = fp8._dense_by_rows(*fp8.quantize_rows(x), weight.dense, weight.scales, bias, residual, epilogue)
    assert y.dtype == torch.bfloat16
    assert error(y, reference(x, weight, bias, residual, epilogue)) < BOUND


def test_the_codes_of_kernels_are_those_in_the_table():
    assert [find(name).code for name in ("dense", "skinny", "wide")] == [fp8.DENSE, fp8.SKINNY, fp8.WIDE]


def test_compiled_serves_every_batch_size():
    weight = quantize(packed_of())

    @torch.compile(fullgraph=True, dynamic=True)
    def compiled(x):
        return run(x * 2, weight, epilogue="silu") + 1

    for m in (5, 1, 9):
        x = torch.randn(m, K).bfloat16()
        with torch.no_grad():
            assert error(compiled(x), reference(x * 2, weight, epilogue="silu") + 1) < BOUND
