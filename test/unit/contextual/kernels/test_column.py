"""``sparseflow::column_linear`` against gathering the kept inputs in fp64, and what it refuses."""

import itertools
import subprocess
from pathlib import Path

import isolated
import pytest
import torch
from gather import DTYPES, ROUNDING
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflow.errors import InferenceOnlyError
from sparseflow.runtime.contextual.column import column_linear, portable_column_linear
from sparseflow.runtime.epilogues import ACTIVATIONS

CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
SHAPES = [(1, 1), (5, 7), (37, 129), (576, 192), (301, 2311)]


def operands(k, n, m, dtype=torch.float32, *, stored=None, ending=False, seed=0):
    """x, weight, bias, residual and scale of a layer whose results are about 1."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    x, weight = random(m, k).to(dtype), (random(k, n) / max(k, 1) ** 0.5).to(dtype)
    scale = None
    if stored is torch.int8:
        weight = torch.randint(-127, 128, (k, n), generator=generator, dtype=torch.int8)
        scale = torch.rand(n, generator=generator) / 100
    bias, residual = (random(n).to(dtype), random(m, n).to(dtype)) if ending else (None, None)
    return x, weight, bias, residual, scale


def worst(y, x, weight, threshold, bias, residual, scale, *, before_residual=False):
    """The largest error as a share of what one rounding and the sums in fp32 allow."""
    k, _ = weight.shape
    inputs = x.reshape(x.shape[:-1].numel(), k)
    rows = torch.where(inputs.float().abs() < threshold, 0, inputs).double()
    matrix = weight.double() if scale is None else weight.double() * scale.double()
    exact, size = rows @ matrix, rows.abs() @ matrix.abs()
    for added in (bias, residual):
        if added is not None:
            wide = added.double() if added is bias else added.double().reshape(exact.shape)
            exact, size = exact + wide, size + wide.abs()
    error = (y.reshape(exact.shape).double() - exact).abs()
    rounded = exact.abs()
    if before_residual and residual is not None:  # then there are two roundings
        rounded = rounded + (exact - residual.double().reshape(exact.shape)).abs()
    bound = 1.01 * ROUNDING[x.dtype] * rounded + (4 + x.shape[-1] ** 0.5) * 2**-24 * size + 2**-24
    return (error / bound).max().item() if error.numel() else 0.0


@pytest.mark.parametrize("ending", [False, True])
@pytest.mark.parametrize("stored", [None, torch.int8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_dtype_shape_and_number_of_rows(shape, dtype, stored, ending):
    for m in (0, 1, 2, 3, 4, 5, 7, 8, 9):
        x, weight, *rest = operands(*shape, m, dtype, stored=stored, ending=ending, seed=m)
        y = column_linear(x, weight, 0.7, *rest, 16)
        assert y.dtype == dtype
        assert y.shape == (m, shape[1])
        assert worst(y, x, weight, 0.7, *rest) <= 1


def ended(product, bias, epilogue, residual):
    """What follows a product, in fp64."""
    y = product if bias is None else product + bias.double()
    name = epilogue.removesuffix("_gated")
    if epilogue != name:
        gate, up = y.chunk(2, dim=-1)
        return ACTIVATIONS[name](gate) * up
    y = y if name == "none" else ACTIVATIONS[name](y)
    return y if residual is None else y + residual.double()


@pytest.mark.parametrize("epilogue", [*ACTIVATIONS, *(f"{name}_gated" for name in ACTIVATIONS)])
@pytest.mark.parametrize("stored", [None, torch.int8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_epilogue(dtype, stored, epilogue):
    gated = epilogue.endswith("_gated")
    for (k, n), m in itertools.product([(5, 6), (37, 130), (301, 2310)], (0, 1, 3, 9)):
        x, weight, bias, residual, scale = operands(k, n, m, dtype, stored=stored, ending=True, seed=m)
        residual = None if gated else residual
        y = column_linear(x, weight, 0.7, bias, residual, scale, 4, epilogue)  # nine rows keep every input
        rows = torch.where(x.float().abs() < (0.7 if m <= 4 else 0), 0, x).double()
        product = rows @ (weight.double() if scale is None else weight.double() * scale.double())
        expected = ended(product, bias, epilogue, residual)
        assert (y.dtype, y.shape) == (dtype, (m, n // 2 if gated else n))
        # Halves of a gate, and what is activated, may be rounded.
        most = max(1.0, float(expected.abs().amax())) if y.numel() else 1.0
        close = {"rtol": 8 * ROUNDING[dtype] + 1e-5, "atol": (16 * ROUNDING[dtype] + 1e-5) * most}
        torch.testing.assert_close(y.double(), expected, **close)
        plain = portable_column_linear(x, weight, 0.7, bias, residual, scale, 4, epilogue)
        torch.testing.assert_close(y, plain, **close)


@settings(max_examples=60, deadline=None)
@given(
    threshold=st.floats(0, 4, width=32),
    k=st.integers(0, 70),
    n=st.integers(0, 150),
    m=st.integers(0, 9),
    seed=st.integers(0, 1 << 30),
)
def test_any_threshold_gives_the_gathered_product(threshold, k, n, m, seed):
    x, weight, *rest = operands(k, n, m, ending=seed % 2 == 0, seed=seed)
    y = column_linear(x, weight, threshold, *rest, 9)
    assert worst(y, x, weight, threshold, *rest) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_depends_neither_on_the_others_nor_on_the_threads_nor_on_the_run(dtype):
    x, weight, *rest = operands(1030, 1290, 8, dtype, ending=True)
    threads = torch.get_num_threads()
    y = column_linear(x, weight, 0.5, *rest, 8)
    assert torch.equal(y, column_linear(x, weight, 0.5, *rest, 8))
    bias, residual, scale = rest
    for m in range(8):
        alone = column_linear(x[m], weight, 0.5, bias, residual[m], scale, 8)
        assert torch.equal(alone, y[m])
    try:
        torch.set_num_threads(1)
        assert torch.equal(y, column_linear(x, weight, 0.5, *rest, 8))
    finally:
        torch.set_num_threads(threads)


def test_the_threshold_itself_is_kept_and_what_is_below_it_left_out():
    x = torch.tensor([0.5, -0.5, 0.49, -0.49, 0.0])
    weight = torch.tensor([[1.0], [2.0], [float("nan")], [float("nan")], [float("nan")]])
    assert column_linear(x, weight, 0.5).tolist() == [0.5 - 1.0]


def test_what_no_row_keeps_is_not_read():
    x, weight, *_ = operands(64, 32, 3)
    x[:, ::2] = 0.01
    weight[::2] = float("inf")
    assert column_linear(x, weight, 0.02, m_max=3).isfinite().all()


@pytest.mark.parametrize("threshold", [0.0, 1e30])
def test_all_zero_rows(threshold):
    x, weight, bias, residual, _ = operands(40, 70, 2, ending=True)
    y = column_linear(torch.zeros_like(x), weight, threshold, bias, residual)
    assert torch.equal(y, bias + residual)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_are_kept(dtype, value):
    x, weight, *_ = operands(33, 65, 3, dtype)
    x[1, 5] = value
    y = column_linear(x, weight, 1e30)
    expected = value * weight[5].float()
    torch.testing.assert_close(y[1].float(), expected, equal_nan=True)
    assert torch.equal(y[::2], torch.zeros_like(y[::2]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_zero_is_the_dense_product(dtype):
    x, weight, bias, _, _ = operands(129, 257, 4, dtype, ending=True)
    dense = torch.nn.functional.linear(x.float(), weight.float().t(), bias.float()).to(dtype)
    torch.testing.assert_close(column_linear(x, weight, 0.0, bias), dense)


@pytest.mark.parametrize("shape", [(2, 3, 20), (1, 2, 20), (9, 20), (9, 1, 20)])
def test_sequences_and_many_rows_keep_every_input(shape):
    _, weight, bias, _, _ = operands(20, 30, 1, ending=True)
    x = torch.randn(*shape)
    residual = torch.randn(*shape[:-1], 30)
    y = column_linear(x, weight, 0.9, bias, residual, m_max=8)
    torch.testing.assert_close(y, torch.nn.functional.linear(x, weight.t(), bias) + residual)


@pytest.mark.parametrize("stored", [None, torch.int8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_prompts_of_every_length(dtype, stored):
    """Below, at and beyond the rows of a strip, of a panel, and those from which torch multiplies."""
    # torch rounds a product before a residual is added
    by_torch = dtype is torch.bfloat16 and stored is None and "AuthenticAMD" not in CPU
    for (k, n), m in itertools.product([(1, 1), (37, 130), (301, 2311)], (2, 7, 8, 9, 16, 17, 31, 32, 33)):
        x, weight, *rest = operands(k, n, m, dtype, stored=stored, ending=m <= 16, seed=m)
        bias, residual, scale = rest
        y = column_linear(x[None], weight, 0.7, bias, None if residual is None else residual[None], scale)
        assert y.shape == (1, m, n)
        assert worst(y, x[None], weight, 0.0, *rest, before_residual=by_torch) <= 1


@pytest.mark.skipif("AuthenticAMD" not in CPU, reason="torch multiplies prompts there")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_prompt_sums_as_its_tokens_do_alone(dtype):
    x, weight, bias, residual, _ = operands(301, 1290, 23, dtype, ending=True)
    y = column_linear(x[None], weight, 0.5, bias, residual[None])
    for m in range(23):
        assert torch.equal(column_linear(x[m], weight, 0.0, bias, residual[m]), y[0, m])


@pytest.mark.parametrize("shape", [(20,), (8, 20), (8, 1, 20), (2, 4, 1, 20)])
def test_one_token_of_each_sequence_leaves_inputs_out(shape):
    _, weight, *rest = operands(20, 30, 1)
    x = torch.randn(*shape)
    y = column_linear(x, weight, 0.9)
    assert y.shape == (*shape[:-1], 30)
    assert worst(y, x, weight, 0.9, *rest) <= 1


@pytest.mark.parametrize("stored", [None, torch.int8])
@pytest.mark.parametrize("rows", [3, 20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_portable_version_says_the_same(dtype, rows, stored):
    x, weight, *rest = operands(100, 90, rows, dtype, stored=stored, ending=True)
    y, plain = (each(x, weight, 0.6, *rest, 8) for each in (column_linear, portable_column_linear))
    torch.testing.assert_close(
        y.float(), plain.float(), rtol=8 * ROUNDING[dtype], atol=64 * ROUNDING[dtype] + 2e-5
    )


def test_x_may_have_any_strides():
    _, weight, *_ = operands(20, 30, 1)
    x = torch.randn(20, 4).t()
    assert torch.equal(column_linear(x, weight, 0.3), column_linear(x.contiguous(), weight, 0.3))
    wide = torch.randn(4, 50)[:, 7:27]
    assert torch.equal(column_linear(wide, weight, 0.3), column_linear(wide.contiguous(), weight, 0.3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(2, 9)}, "x must be"),
        ({"weight": torch.randn(8, 6).t()}, "contiguous matrix"),
        ({"weight": torch.randn(6, 8).double()}, "float32, bfloat16 or float16"),
        ({"weight": torch.randn(6, 8).half()}, "dtype of the weight"),
        ({"weight": torch.ones(6, 8, dtype=torch.int8)}, "int8 weights have scales"),
        ({"scale": torch.ones(8)}, "other weights none"),
        ({"threshold": -1.0}, "threshold must be at least 0"),
        ({"threshold": float("nan")}, "threshold must be at least 0"),
        ({"m_max": 33}, "m_max must be"),
        ({"m_max": -1}, "m_max must be"),
        ({"bias": torch.randn(7)}, "bias must be"),
        ({"residual": torch.randn(1, 8)}, "residual must have"),
        ({"epilogue": "tanh"}, "epilogue must be none, relu"),
        ({"epilogue": "silu_gated", "weight": torch.randn(6, 7)}, "needs an even N, got 7"),
        ({"epilogue": "silu_gated", "residual": torch.randn(2, 4)}, "takes no residual"),
    ],
)
def test_refusals(change, message):
    given = {"x": torch.randn(2, 6), "weight": torch.randn(6, 8), "threshold": 0.1} | change
    with pytest.raises(RuntimeError, match=message):
        column_linear(**given)


def test_gradients_are_refused():
    with pytest.raises(InferenceOnlyError):
        column_linear(torch.randn(2, 6, requires_grad=True), torch.randn(6, 8), 0.1)


def test_fake_and_compiled():
    x, weight, *rest = operands(20, 30, 2, ending=True)
    meta = column_linear(x.to("meta"), weight.to("meta"), 0.1)
    assert meta.shape == (2, 30)
    gated = column_linear(x.to("meta"), weight.to("meta"), 0.1, epilogue="silu_gated")
    assert gated.shape == (2, 15)
    with pytest.raises(RuntimeError, match="x must be"):
        column_linear(torch.empty(3, 4, device="meta"), weight.to("meta"), 0.1)
    torch.library.opcheck(
        column_linear, (x, weight, 0.3, *rest), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("isa", ["plain", "avx2"])
def test_other_instruction_sets(isa):
    folders = [str(Path(__file__).parent), str(Path(isolated.__file__).parent)]
    script = (
        f"import sys; sys.path[:0] = {folders!r}\n"
        "import test_column as t, torch\n"
        "for dtype in t.DTYPES:\n"
        "  for stored in (None, torch.int8):\n"
        "    for m in (1, 3, 8):\n"
        "      x, w, *rest = t.operands(131, 203, m, dtype, stored=stored, ending=True)\n"
        "      share = t.worst(t.column_linear(x, w, 0.6, *rest), x, w, 0.6, *rest)\n"
        "      assert share <= 1, (dtype, stored, m, share)\n"
        "    x, w, b, r, s = t.operands(131, 203, 13, dtype, stored=stored, ending=True)\n"
        "    share = t.worst(t.column_linear(x[None], w, 0.6, b, r[None], s), x, w, 0.0, b, r, s)\n"
        "    assert share <= 1, (dtype, stored, 'a prompt', share)\n"
    )
    environment = {"SPARSEFLOW_CPU_ISA": isa, "PATH": ""}
    done = subprocess.run([*isolated.warm(), "-c", script], env=environment, capture_output=True, text=True)
    if "this machine can run" in done.stderr:
        pytest.skip(f"no {isa} here")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_threshold_is_not_rounded_to_the_dtype_of_the_inputs(dtype):
    """The greatest number of the dtype below 0.7 is left out, though 0.7 in that dtype is no larger."""
    number = torch.tensor(0.7).to(dtype)
    below = number if number < 0.7 else number.view(torch.int16).sub(1).view(dtype)
    x, weight = below.expand(1, 8).contiguous(), torch.ones(8, 16, dtype=dtype)
    assert not column_linear(x, weight, 0.7).any()
    assert not portable_column_linear(x, weight, 0.7).any()
    assert column_linear(x, weight, float(below)).all()
