"""``sparseflow::column_linear`` on CUDA against the product of the kept inputs in fp64, and in models."""

import itertools

import pytest
import torch
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds, LayerThreshold
from sparseflow.contextual.activations.column_policies import ColumnShape, column_policy
from sparseflow.runtime.contextual.column import column_linear, kept_inputs, portable_column_linear

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def randn(*shape, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cuda")


def operands(k, n, m, dtype=torch.bfloat16, *, ending=False, seed=0):
    """x, weight, bias and residual of a layer whose results are about 1."""
    x, weight = randn(m, k, seed=seed).to(dtype), (randn(k, n, seed=seed + 1) / max(k, 1) ** 0.5).to(dtype)
    if not ending:
        return x, weight, None, None
    return x, weight, randn(n, seed=seed + 2).to(dtype), randn(m, n, seed=seed + 3).to(dtype)


def worst(y, x, weight, threshold, bias=None, residual=None):
    """The largest error as a share of what one rounding and the sums in fp32 allow."""
    rows = torch.where(x.float().abs() < threshold, 0, x).double()
    exact, size = rows @ weight.double(), rows.abs() @ weight.double().abs()
    for added in (bias, residual):
        if added is not None:
            exact, size = exact + added.double(), size + added.double().abs()
    error = (y.double() - exact).abs()
    bound = 1.01 * ROUNDING[x.dtype] * exact.abs() + (4 + x.shape[-1] ** 0.5) * 2**-24 * size + 2**-24
    return (error / bound).max().item() if error.numel() else 0.0


@pytest.mark.parametrize("ending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(
    ("k", "n"),
    [(1, 8), (7, 64), (576, 192), (2051, 1032), (4096, 4096), (14336, 4096), (28672, 512), (8192, 28672)],
)
def test_shapes_and_numbers_of_rows(k, n, dtype, ending):
    for m in range(1, 5) if k < 1 << 14 else (1, 2):
        x, weight, *rest = operands(k, n, m, dtype, ending=ending, seed=m)
        for threshold in (0.0, 0.7, 2.5):
            y = column_linear(x, weight, threshold, *rest)
            assert (y.shape, y.dtype) == ((m, n), dtype)
            assert worst(y, x, weight, threshold, *rest) <= 1, (m, threshold)


@pytest.mark.parametrize("epilogue", ["silu", "gelu_tanh", "silu_gated", "relu_gated"])
@pytest.mark.parametrize("stored", [None, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogues(dtype, stored, epilogue):
    """In the kernel, and beside it: in float32, with other N and with more rows."""
    gated = epilogue.endswith("_gated")
    for (k, n), m in itertools.product(
        [(99, 28672), (4096, 1040), (7, 16), (512, 520), (33, 6)], (1, 2, 4, 5, 12)
    ):
        x, weight, bias, residual = operands(k, n, m, dtype, ending=True, seed=m)
        if gated:
            residual = None
        scale = None
        if stored is not None:
            weight, scale = (
                (100 * randn(k, n)).clamp(-127, 127).to(stored),
                torch.rand(n, device="cuda") / k**0.5 / 50,
            )
        y = column_linear(x, weight, 0.7, bias, residual, scale, 8, epilogue)
        plain = portable_column_linear(x, weight, 0.7, bias, residual, scale, 8, epilogue)
        assert (y.shape, y.dtype) == ((m, n // 2 if gated else n), dtype)
        torch.testing.assert_close(
            y, plain, rtol=8 * ROUNDING[dtype] + 1e-4, atol=16 * ROUNDING[dtype] + 1e-4
        )


@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(
    ("k", "n"),
    [(1, 8), (7, 64), (2051, 1032), (4096, 4096), (14336, 4096), (300, 6144), (512, 10240), (99, 28672)],
)
def test_weights_in_8_bits(k, n, dtype, stored):
    weight = (100 * randn(k, n)).clamp(-127, 127).to(stored)
    scale = torch.rand(n, device="cuda") / k**0.5 / 50
    wide = weight.double() * scale.double()
    for m in range(1, 6):  # the last is too many rows for the kernel
        x, _, bias, residual = operands(k, n, m, dtype, ending=True, seed=m)
        for threshold in (0.0, 0.7, 2.5):
            y = column_linear(x, weight, threshold, bias, residual, scale)
            if m <= 4:
                assert worst(y, x, wide, threshold, bias, residual) <= 1, (m, threshold)
                assert torch.equal(y, column_linear(x, weight, threshold, bias, residual, scale))
            else:
                plain = portable_column_linear(x, weight, threshold, bias, residual, scale)
                torch.testing.assert_close(y, plain, rtol=4 * ROUNDING[dtype], atol=8 * ROUNDING[dtype])


@pytest.mark.parametrize("stored", ["int8", "fp8"])
def test_a_compiled_model_stores_its_weights_in_8_bits(stored):
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 256)).to("cuda", torch.bfloat16).eval()
    )
    thresholds = ActivationThresholds(
        {
            name: LayerThreshold(0.1, 0.3, 0.0, (layer.out_features, layer.in_features))
            for name, layer in model.named_children()
            if isinstance(layer, nn.Linear)
        }
    )
    compiled = sf.compile(model, contextual=thresholds, policy="sparse", format=stored, inner="eager")
    x = torch.randn(1, 1, 256, device="cuda", dtype=torch.bfloat16)
    y = compiled(x)
    assert {layer.format for layer in compiled.report.layers} == {stored}
    hidden = model[1](model[0](kept_inputs(x, 0.1)))
    assert (y - model[2](kept_inputs(hidden, 0.1))).norm() < 0.05 * y.norm()
    assert compiled(x.expand(1, 3, 256)).shape == (1, 3, 256)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "n"), [(5, 7), (37, 129), (301, 2311), (0, 16), (16, 0), (70000, 8), (64, 64)])
def test_what_the_kernel_does_not_take_reads_every_input(k, n, dtype):
    if dtype == torch.float32:
        pytest.skip("torch multiplies float32 in tf32 or not, as it is set")
    for m in (0, 1, 3, 8, 9):
        x, weight, bias, residual = operands(k, n, m, dtype, ending=True, seed=m)
        y = column_linear(x, weight, 0.7, bias, residual)
        assert y.shape == (m, n)
        plain = portable_column_linear(x, weight, 0.7, bias, residual)
        torch.testing.assert_close(y, plain, rtol=4 * ROUNDING[dtype], atol=8 * ROUNDING[dtype])


def test_random_thresholds_and_shapes():
    generator = torch.Generator().manual_seed(3)
    for seed in range(60):
        k, n, m = (int(torch.randint(1, most, (), generator=generator)) for most in (3000, 300, 5))
        threshold = float(3 * torch.rand((), generator=generator))
        x, weight, *rest = operands(k, 8 * n, m, ending=seed % 2 == 0, seed=seed)
        assert worst(column_linear(x, weight, threshold, *rest), x, weight, threshold, *rest) <= 1


@pytest.mark.parametrize("m", [1, 2, 5])
def test_all_left_out_and_all_zero(m):
    x, weight, bias, residual = operands(4096, 4096, m, ending=True)
    added = (bias.float() + residual.float()).to(x.dtype)
    assert torch.equal(column_linear(x, weight, 1e30, bias, residual), added)
    assert torch.equal(column_linear(torch.zeros_like(x), weight, 0.0, bias, residual), added)
    assert torch.equal(column_linear(x, weight, 1e30), torch.zeros_like(added))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_nan_and_inf_are_kept(dtype, value):
    x, weight, *_ = operands(330, 648, 3, dtype)
    x[1, 5] = value
    y = column_linear(x, weight, 1e30)
    torch.testing.assert_close(y[1].float(), value * weight[5].float(), equal_nan=True)
    assert torch.equal(y[::2], torch.zeros_like(y[::2]))


def test_what_is_left_out_is_not_read():
    x, weight, *_ = operands(640, 264, 1)
    x[:, ::2] = 0.01
    weight[::2] = float("nan")
    assert column_linear(x, weight, 0.02).isfinite().all()


def test_the_same_bits_from_run_to_run():
    for k, n, m in ((4096, 4096, 1), (14336, 4096, 1), (4096, 28672, 3)):
        x, weight, *rest = operands(k, n, m, ending=True)
        first = column_linear(x, weight, 0.6, *rest)
        assert all(torch.equal(first, column_linear(x, weight, 0.6, *rest)) for _ in range(30))


def test_a_graph_sees_other_inputs_and_two_streams_do_not_meet():
    x, weight, *rest = operands(4096, 4096, 1, ending=True)
    column_linear(x, weight, 0.6, *rest)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = column_linear(x, weight, 0.6, *rest)
    for scale in (1.0, 0.1, 10.0):
        x.copy_(scale * randn(1, 4096, seed=9))
        graph.replay()
        assert worst(y, x, weight, 0.6, *rest) <= 1
    streams, results = [torch.cuda.Stream() for _ in range(4)], []
    expected = column_linear(x, weight, 0.6, *rest)
    torch.cuda.synchronize()
    for turn in range(40):
        with torch.cuda.stream(streams[turn % 4]):
            results.append(column_linear(x, weight, 0.6, *rest))
    torch.cuda.synchronize()
    assert all(torch.equal(result, expected) for result in results)


def test_strides_leading_dimensions_and_unaligned_weights():
    _, weight, *_ = operands(264, 512, 1)
    x = randn(264, 4).to(weight.dtype).t()
    assert torch.equal(column_linear(x, weight, 0.3), column_linear(x.contiguous(), weight, 0.3))
    tokens = randn(2, 1, 264).to(weight.dtype)
    y = column_linear(tokens, weight, 0.9)
    assert y.shape == (2, 1, 512)
    assert worst(y.view(2, 512), tokens.view(2, 264), weight, 0.9) <= 1
    shifted = torch.empty(264 * 512 + 1, dtype=weight.dtype, device="cuda")[1:].view(264, 512).copy_(weight)
    torch.testing.assert_close(column_linear(tokens, shifted, 0.9), y, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("shape", [(2, 3, 264), (9, 264), (9, 1, 264)])
def test_sequences_and_many_rows_keep_every_input(shape):
    _, weight, bias, _ = operands(264, 512, 1, ending=True)
    x, residual = randn(*shape).to(weight.dtype), randn(*shape[:-1], 512, seed=1).to(weight.dtype)
    y = column_linear(x, weight, 0.9, bias, residual)
    assert torch.equal(y, nn.functional.linear(x, weight.t(), bias) + residual)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, 9)}, "x must be"),
        ({"threshold": -1.0}, "threshold must be at least 0"),
        ({"threshold": float("nan")}, "threshold must be at least 0"),
        ({"m_max": 33}, "m_max must be"),
        ({"bias": (7,)}, "bias must be"),
        ({"residual": (1, 8)}, "residual must be"),
    ],
)
def test_refusals(change, message):
    given = {"x": (2, 6), "weight": (6, 8), "threshold": 0.1} | change
    made = {
        name: randn(*value).bfloat16() if isinstance(value, tuple) else value for name, value in given.items()
    }
    with pytest.raises(RuntimeError, match=message):
        column_linear(**made)


def test_a_large_layer_is_measured_to_pay():
    policy = column_policy(ColumnShape(28672, 4096, torch.bfloat16, torch.device("cuda"), 50))
    assert policy.m_max >= 1
    assert policy.measured[0][1] > 1.2


def test_compiled_on_the_gpu_one_token_leaves_inputs_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)).cuda().bfloat16().eval()
    shapes = {"0": (512, 256), "2": (256, 512)}
    thresholds = ActivationThresholds(
        {name: LayerThreshold(0.3, 0.4, 0.0, shape) for name, shape in shapes.items()}
    )
    compiled = sf.compile(model, contextual=thresholds, policy="sparse")
    x = torch.randn(1, 1, 256, device="cuda").bfloat16()
    with torch.no_grad():
        hidden = torch.relu(model[0](kept_inputs(x, 0.3)))
        expected = model[2](kept_inputs(hidden, 0.3))
    torch.testing.assert_close(compiled(x), expected, rtol=2**-6, atol=2**-6)


def test_generating_with_thresholds_on_the_gpu():
    torch.manual_seed(0)
    model = zoo.text_model("llama").cuda().bfloat16().eval()
    thresholds = sf.calibrate_activations(model, zoo.tokens(4, 24).cuda(), rate=0.3, tokens=64)
    compiled = sf.compile(model, contextual=thresholds, policy="sparse", inner="eager")
    call = {"input_ids": zoo.tokens(1, 6).cuda(), "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    tokens = compiled.generate(**call, eos_token_id=None)
    assert tokens.shape == (1, 18)
    assert compiled.report.model["generate"]["loop"] == "sparseflow"
    assert {layer.decision for layer in compiled.report.layers} >= {"contextual"}
    assert torch.equal(tokens, compiled.generate(**call, eos_token_id=None))
