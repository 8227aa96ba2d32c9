"""``sparseflow::linear`` with a gated epilogue: in the own kernel, or in one right after every other path."""

import pytest
import torch
import transformers as tf
from gpu_weights import ACTIVATIONS, TOLERANCE, error, inputs, linear, packed, pruned, reference

import sparseflow as sf
from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice

GATES = [f"{name}_gated" for name in ACTIVATIONS if name != "none"]
AFTER, INSIDE = "; the gate follows in a kernel of its own", "; the gate is part of it"
DTYPES = [torch.bfloat16, torch.float16]
ROWS = {torch.bfloat16: range(1, 201), torch.float16: (1, 2, 7, 8, 9, 16, 31, 33, 64, 65, 127, 200)}
PATHS = {
    "cusparselt, algorithm 0": [1, Choice("cusparselt", 0).code],
    "skinny, variant 0": [1, Choice("skinny", 0).code],  # a portable one, which has no gate
    "skinny, variant 16": [1, Choice("skinny", 16).code],  # strips of too few rows for a gate
    "skinny, variant 30": [1, Choice("skinny", 30).code],
    "dense: the policy says so": [1, Choice("dense").code],
}


def expected_path(path, n):
    return path + (INSIDE if path == "skinny, variant 30" and n % 128 == 0 else AFTER)


def gated(x, weight, bias, epilogue):
    gate, up = reference(x, weight, bias).chunk(2, -1)
    return ACTIVATIONS[epilogue.removesuffix("_gated")](gate) * up


@pytest.fixture
def path(request):
    if (
        "skinny" in request.param
        and not request.param.endswith(" 0")
        and torch.cuda.get_device_capability()[0] != 9
    ):
        pytest.skip("the variants from 16 on are for sm_90")
    return request.param


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(256, 512), (1408, 1088)])
def test_every_number_of_rows_on_every_path(shape, dtype, path):
    (n, k), policy = shape, PATHS[path]
    weight = pruned(n, k, dtype)
    device, bias = packed(weight), inputs(1, n, dtype, seed=2)[0]
    gpu.prepare(device, ROWS[dtype], policy, bias=True, epilogue="silu_gated")
    for m in ROWS[dtype]:
        x = inputs(m, k, dtype, seed=m)
        y = linear(x, device, bias, epilogue="silu_gated", policy=policy)
        assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, (m, n // 2), True)
        assert error(y, gated(x, weight, bias, "silu_gated")) < 2 * TOLERANCE[dtype], m
        found = gpu.path(device, m, policy, bias=True, epilogue="silu_gated")
        assert found == expected_path(path, n), m


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(256, 512), (1090, 452), (34, 7), (2, 1)])
def test_every_activation_with_and_without_bias_in_sizes_that_are_padded(shape, dtype, path):
    (n, k), policy = shape, PATHS[path]
    weight = pruned(n, k, dtype)
    device, some = packed(weight), inputs(1, n, dtype, seed=2)[0]
    for epilogue in GATES:
        for bias in (None, some):
            gpu.prepare(device, (1, 33), policy, bias=bias is not None, epilogue=epilogue)
            for m in (1, 33):
                x = inputs(m, k, dtype, seed=m)
                y = linear(x, device, bias, epilogue=epilogue, policy=policy)
                assert error(y, gated(x, weight, bias, epilogue)) < 3 * TOLERANCE[dtype], (epilogue, m)
    assert gpu.path(device, 33, policy, epilogue="silu_gated") == expected_path(path, n)


@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_leading_dimensions_strides_and_empty_inputs(path):
    (n, k), dtype, policy = (256, 512), torch.bfloat16, PATHS[path]
    weight = pruned(n, k, dtype)
    device, wide = packed(weight), inputs(24, k, dtype)
    for x in (wide.view(2, 3, 4, k), wide[0], wide[::2], wide.T.contiguous().T, wide[:0].view(0, 5, k)):
        gpu.prepare(device, [x.numel() // k], policy, epilogue="gelu_gated")
        y = linear(x, device, epilogue="gelu_gated", policy=policy)
        assert error(y, gated(x, weight, None, "gelu_gated")) < 2 * TOLERANCE[dtype]
    assert gpu.path(device, 0, policy, epilogue="gelu_gated") == "nothing: the result is empty"


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("m", [1, 20])
def test_a_captured_graph_follows_its_inputs(m, path):
    (n, k), dtype, policy = (256, 512), torch.bfloat16, PATHS[path]
    weight = pruned(n, k, dtype)
    device, x, bias = packed(weight), inputs(m, k, dtype), inputs(1, n, dtype, seed=5)[0]
    gpu.prepare(device, [m], policy, bias=True, epilogue="relu_gated")
    linear(x, device, bias, epilogue="relu_gated", policy=policy)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = linear(x, device, bias, epilogue="relu_gated", policy=policy)
    for seed in (7, 8):
        x.copy_(inputs(m, k, dtype, seed=seed))
        bias.copy_(inputs(1, n, dtype, seed=seed + 1)[0])
        y.fill_(float("nan"))
        graph.replay()
        assert error(y, gated(x, weight, bias, "relu_gated")) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("epilogue", GATES)
def test_nan_and_inf_of_either_half_go_where_torch_has_them(epilogue, path):
    n, k, policy, dtype = 128, 64, PATHS[path], torch.bfloat16
    device = packed(pruned(n, k, dtype))
    some = torch.tensor(
        [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3.0, -3.0, 1e30], device="cuda"
    )
    gate, up = torch.cartesian_prod(some, some).to(dtype).T.contiguous()
    gpu.prepare(device, [3], policy, bias=True, epilogue=epilogue)
    y = linear(
        torch.zeros(3, k, device="cuda", dtype=dtype), device, torch.cat([gate, up]), None, epilogue, policy
    )
    expected = ACTIVATIONS[epilogue.removesuffix("_gated")](gate.float()) * up.float()
    expected = expected.to(dtype).expand(3, -1)
    if path.startswith("cusparselt"):  # it adds the bias itself, and an infinite one may come out as NaN
        expected = torch.where((gate.isinf() | up.isinf()) & y.isnan(), y, expected)
    torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32])
def test_the_kernel_of_the_gate_takes_any_width_and_dtype(dtype):
    for n in (2, 6, 16, 130, 1000):
        weight = pruned(n, 64, dtype)
        device = packed(weight)
        for m in (1, 5, 70000):
            x = inputs(m, 64, dtype, seed=m)
            y = linear(x, device, epilogue="silu_gated", policy=[1, Choice("dense").code])
            assert error(y, gated(x, weight, None, "silu_gated")) < 3 * TOLERANCE[dtype], (n, m)


def test_autocast_casts_what_the_gate_multiplies():
    weight = pruned(256, 512, torch.bfloat16)
    device, x = packed(weight), inputs(5, 512, torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        y = linear(x, device, epilogue="silu_gated", policy=PATHS["cusparselt, algorithm 0"])
    assert y.dtype == torch.bfloat16
    assert error(y, gated(x, weight, None, "silu_gated")) < 4 * TOLERANCE[torch.bfloat16]


def test_what_does_not_fit_a_gate_is_refused_by_name():
    dtype = torch.bfloat16
    odd, even = packed(pruned(203, 64, dtype)), packed(pruned(128, 64, dtype))
    x = inputs(3, 64, dtype)
    for call in (
        lambda: linear(x, odd, epilogue="silu_gated"),
        lambda: gpu.path(odd, 3, epilogue="silu_gated"),
        lambda: gpu.prepare(odd, [3], epilogue="silu_gated"),
    ):
        with pytest.raises(RuntimeError, match="'silu_gated' needs an even N, got 203"):
            call()
    with pytest.raises(RuntimeError, match="'relu_gated' takes no residual"):
        linear(x, even, None, inputs(3, 128, dtype), "relu_gated")


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_a_llama_with_gates_in_its_layers_computes_what_the_pruned_model_does(inner):
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=512,
        dtype=torch.bfloat16,
    )
    model = tf.LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    sf.prune(model, progress=False)
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner=inner)
    for batch, length in ((1, 1), (2, 8), (3, 100)):
        ids = torch.randint(3, 512, (batch, length), device="cuda")
        with torch.no_grad():
            assert error(compiled(ids).logits, model(ids).logits.double()) < 3e-2
    assert 'epilogue = "silu_gated"' in compiled.mlir("sparse_gemm")
