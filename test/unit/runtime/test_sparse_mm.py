"""sparse_mm against an fp64 product of the same weight, within the rounding that its dtype allows."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflow.errors import ArgumentError, InferenceOnlyError
from sparseflow.runtime import Policy, compress_2_4, prune_24, sparse_mm

NATIVE = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = json.loads((Path(__file__).parents[2] / "data" / "shapes.json").read_text())
ACTIVATIONS = {
    None: lambda v: v,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
    "silu": F.silu,
}


def random_layer(n, k, dtype=torch.float32, seed=0):
    weight = prune_24(torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype))
    return weight, compress_2_4(weight)


def random_input(*shape, dtype=torch.float32, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_within_rounding(got, x, weight, bias=None, activation=None, residual=None):
    """Compare with fp64; the bound grows with the magnitudes summed, not with the (perhaps cancelled) sum.

    An fp32 accumulation of K products errs by at most about K eps Σ|w·x|, in practice by its square root; the
    activations are Lipschitz with a constant below 1.13, and the result is rounded to its own dtype once.
    """
    x64, w64 = x.double(), weight.double()
    shift = 0 if bias is None else bias.double()
    exact = ACTIVATIONS[activation](x64 @ w64.T + shift)
    magnitude = x64.abs() @ w64.abs().T + (0 if bias is None else shift.abs())
    if residual is not None:
        exact, magnitude = exact + residual.double(), magnitude + residual.double().abs()
    accumulated = 4 * (x.shape[-1] ** 0.5 + 4) * torch.finfo(torch.float32).eps * magnitude
    rounded = torch.finfo(got.dtype).eps * exact.abs() + torch.finfo(got.dtype).smallest_normal
    assert got.shape == exact.shape
    assert ((got.double() - exact).abs() <= accumulated + rounded).all()


@settings(deadline=None)
@given(
    n=st.integers(1, 40),
    k=st.integers(1, 70),
    lead=st.lists(st.integers(0, 7), max_size=3),
    dtype=st.sampled_from(NATIVE),
    activation=st.sampled_from(list(ACTIVATIONS)),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_shape_dtype_and_epilogue(n, k, lead, dtype, activation, with_bias, with_residual, seed):
    weight, packed = random_layer(n, k, dtype, seed)
    x = random_input(*lead, k, dtype=dtype, seed=seed + 1)
    bias = random_input(n, dtype=dtype, seed=seed + 2) if with_bias else None
    residual = random_input(*lead, n, dtype=dtype, seed=seed + 3) if with_residual else None
    y = sparse_mm(x, packed, bias, activation, residual=residual)
    assert (y.dtype, y.is_contiguous()) == (dtype, True)
    assert_within_rounding(y, x, weight, bias, activation, residual)


@pytest.mark.parametrize("dtype", NATIVE)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 100, 257])
@pytest.mark.parametrize(("n", "k"), [(96, 128), (61, 250)])
@pytest.mark.parametrize("policy", [None, Policy.parse("1:dense")], ids=["cpu", "dense"])
def test_every_kernel_width(m, n, k, dtype, policy):
    weight, packed = random_layer(n, k, dtype)
    x, bias = random_input(m, k, dtype=dtype), random_input(n, dtype=dtype)
    assert_within_rounding(sparse_mm(x, packed, bias, "gelu", policy=policy), x, weight, bias, "gelu")


def production(limit):
    shapes = SHAPES["production"]["shapes"]
    return [pytest.param(*s, id="x".join(map(str, s))) for s in shapes if s[0] * s[1] * s[2] <= limit]


@pytest.mark.parametrize(("m", "n", "k"), production(2**31 + 1))
@pytest.mark.parametrize("dtype", NATIVE)
def test_production_shapes(m, n, k, dtype):
    weight, packed = random_layer(n, k, dtype)
    x = random_input(m, k, dtype=dtype)
    rows = slice(0, None, max(1, m // 64))  # fp64 of every row would take longer than all else
    assert_within_rounding(sparse_mm(x, packed)[rows], x[rows], weight)


@pytest.mark.parametrize("dtype", NATIVE)
def test_a_row_gives_the_same_output_in_any_batch(dtype):
    weight, packed = random_layer(72, 132, dtype)
    x = random_input(300, 132, dtype=dtype)
    whole = sparse_mm(x, packed).double()
    bound = torch.finfo(dtype).eps * whole.abs() + 1e-5 * (x.double().abs() @ weight.double().abs().T)
    for start, stop in [(0, 1), (7, 9), (7, 23), (100, 165), (299, 300)]:
        assert (
            (sparse_mm(x[start:stop], packed).double() - whole[start:stop]).abs() <= bound[start:stop]
        ).all()


@pytest.mark.parametrize("dtype", NATIVE)
def test_an_nan_in_the_input_stays_in_its_row(dtype):
    _, packed = random_layer(32, 64, dtype)
    x = random_input(5, 64, dtype=dtype)
    clean = sparse_mm(x, packed)
    x[2] = float("nan")
    y = sparse_mm(x, packed)
    assert y[2].isnan().all()
    assert not y[[0, 1, 3, 4]].isnan().any()
    assert torch.equal(y[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_relu_and_others_let_nan_through_as_torch_does(bad):
    weight, packed = random_layer(8, 16)
    x = random_input(3, 16)
    x[1, 4] = bad
    for name, reference in ACTIVATIONS.items():
        expected = reference(F.linear(x, weight))[[0, 2]]
        torch.testing.assert_close(sparse_mm(x, packed, None, name)[[0, 2]], expected, rtol=1e-4, atol=1e-4)
    nan_rows = sparse_mm(torch.full((2, 16), float("nan")), packed, None, "relu")
    assert nan_rows.isnan().all()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T.contiguous().T,
        lambda x: x.expand(3, *x.shape),
        lambda x: x[::2],
        lambda x: x[None, :, None],
        lambda x: torch.cat([x, x], 1)[:, 3:23],
    ],
)
def test_inputs_need_not_be_contiguous(view):
    weight, packed = random_layer(12, 20)
    x = view(random_input(10, 20))
    assert_within_rounding(sparse_mm(x, packed), x, weight)


def test_an_expanded_residual_and_a_strided_bias():
    weight, packed = random_layer(12, 20)
    x, bias, residual = random_input(2, 3, 20), random_input(24)[::2], random_input(12).expand(2, 3, 12)
    y = sparse_mm(x, packed, bias, residual=residual)
    assert_within_rounding(y, x, weight, bias, residual=residual)


def test_arguments_are_not_changed():
    _, packed = random_layer(12, 20)
    given = (random_input(4, 20), random_input(12), random_input(4, 12))
    before = [t.clone() for t in (*given, packed.values, packed.positions)]
    sparse_mm(given[0], packed, given[1], "silu", residual=given[2])
    assert all(map(torch.equal, (*given, packed.values, packed.positions), before))


def test_many_python_threads_share_one_weight():
    weight, packed = random_layer(64, 96)
    inputs = [random_input(1 + i % 9, 96, seed=i) for i in range(16)]
    failures = []

    def work(x):
        try:
            for _ in range(20):
                assert_within_rounding(sparse_mm(x, packed, activation="gelu"), x, weight, activation="gelu")
                dense = sparse_mm(x, packed, policy=Policy.parse("1:dense"))
                assert_within_rounding(dense, x, weight)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


_, PACKED = random_layer(6, 8)
X, BIAS = torch.ones(2, 8), torch.ones(6)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (([1.0], PACKED), "x: expected a torch.Tensor, got list"),
        ((X, torch.ones(6, 8)), "packed: expected a PackedWeight, got Tensor"),
        ((torch.ones(2, 9), PACKED), r"x: expected 8 features .* got shape \[2, 9\]"),
        ((torch.tensor(1.0), PACKED), "x: .* got a 0-d tensor"),
        ((X.half(), PACKED), "x: expected dtype torch.float32 .* got torch.float16"),
        ((X.long(), PACKED), "x: expected dtype torch.float32 .* got torch.int64"),
        ((X.to("meta"), PACKED), "x: expected device cpu .* got meta"),
        ((X, PACKED, torch.ones(5)), r"bias: expected shape \[6\], got \[5\]"),
        ((X, PACKED, torch.ones(1, 6)), r"bias: expected shape \[6\], got \[1, 6\]"),
        ((X, PACKED, BIAS.double()), "bias: expected dtype torch.float32"),
        ((X, PACKED, BIAS.to("meta")), "bias: expected device cpu"),
        ((X, PACKED, 1.0), "bias: expected a torch.Tensor or None, got float"),
        ((X, PACKED, None, "tanh"), "activation: .*'relu', 'gelu', 'gelu_tanh', 'silu', got 'tanh'"),
        ((X, PACKED, None, ""), "activation: expected None or one of"),
    ],
)
def test_wrong_arguments_are_named(arguments, rule):
    with pytest.raises(ArgumentError, match=f"^sparse_mm: {rule}"):
        sparse_mm(*arguments)


def test_a_residual_of_another_shape_is_named():
    with pytest.raises(ArgumentError, match=r"sparse_mm: residual: expected shape \[2, 6\], got \[6\]"):
        sparse_mm(torch.ones(2, 8), PACKED, residual=torch.ones(6))


def test_inputs_that_require_grad_are_refused_only_while_gradients_are_recorded():
    x, bias = torch.ones(2, 8, requires_grad=True), torch.nn.Parameter(torch.ones(6))
    for arguments in ((x, PACKED), (x.detach(), PACKED, bias)):
        with pytest.raises(InferenceOnlyError, match=r"sparse_mm: .*\n.*inference_mode"):
            sparse_mm(*arguments)
    with torch.no_grad():
        assert not sparse_mm(x, PACKED, bias).requires_grad
    with torch.inference_mode():
        assert sparse_mm(x, PACKED, bias).is_inference()
