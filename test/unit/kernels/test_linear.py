from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from sparseflow.runtime import native

native.load()
ops = torch.ops.sparseflow
DENSE, CPU = 0, 1


def packed(n, k, dtype=torch.float32):
    weight = ops.prune_2_4(torch.randn(n, k).to(dtype))
    return weight, *ops.pack_2_4(weight)


def call(x, values, positions, k, bias=None, residual=None, epilogue="none", policy=()):
    return ops.linear(x, values, positions, bias, residual, k, epilogue, list(policy))


@pytest.mark.parametrize("shape", [(36,), (1, 36), (2, 3, 36), (2, 1, 3, 36), (0, 36), (3, 0, 36)])
def test_leading_dimensions_are_kept(shape):
    weight, values, positions = packed(20, 36)
    x = torch.randn(shape)
    torch.testing.assert_close(call(x, values, positions, 36), F.linear(x, weight))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.cat([x, x], 1)[:, :40],
        lambda x: torch.stack([x, x], 2)[:, :, 0],
        lambda x: x[:1].expand(6, 40),
        lambda x: x.flip(0)[::2],
    ],
    ids=["transposed", "slice of columns", "spaced columns", "expanded", "spaced rows"],
)
def test_strided_input_and_residual(view):
    weight, values, positions = packed(40, 40)
    x, residual = view(torch.randn(6, 40)), view(torch.randn(6, 40))
    y = call(x, values, positions, 40, residual=residual)
    torch.testing.assert_close(y, F.linear(x, weight) + residual)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("m", [1, 9, 600])
def test_few_output_features(n, m):
    weight, values, positions = packed(n, 100)
    x = torch.randn(m, 100)
    torch.testing.assert_close(call(x, values, positions, 100), F.linear(x, weight))


def test_no_output_features():
    assert call(torch.randn(3, 8), torch.empty(0, 4), torch.empty(0, 1, dtype=torch.uint8), 8).shape == (3, 0)


def test_no_input_features_leave_the_bias():
    bias = torch.randn(5)
    y = call(torch.randn(3, 0), torch.empty(5, 0), torch.empty(5, 0, dtype=torch.uint8), 0, bias=bias)
    assert torch.equal(y, bias.expand(3, 5))


@pytest.mark.parametrize("epilogue", ["none", "relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dense_backend_agrees_with_the_kernels(dtype, epilogue):
    _, values, positions = packed(33, 50, dtype)
    x, bias, residual = (torch.randn(s).to(dtype) for s in ((7, 50), (33,), (7, 33)))
    args = (x, values, positions, 50, bias, residual, epilogue)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype != torch.float32 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(call(*args, [1, DENSE]), call(*args, [1, CPU]), **tolerance)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2,), torch.float32), ((2, 3), torch.float32), ((4,), torch.float16)]
)
def test_dense_backend_in_several_chunks_of_rows(shape, dtype):
    k = 8192 * 4 // dtype.itemsize
    weight, values, positions = packed(1100, k, dtype)  # more than 32 MiB
    x, bias = torch.randn(*shape, k).to(dtype), torch.randn(1100).to(dtype)
    y = call(x, values, positions, k, bias=bias, policy=[1, DENSE])
    exact = F.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(y.double(), exact, rtol=1e-3, atol=1e-3 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize(
    ("policy", "dense_from"),
    [([], None), ([1, CPU], None), ([1, DENSE], 1), ([4, DENSE], 4), ([1, CPU, 3, DENSE], 3)],
)
def test_policy_chooses_by_rows(policy, dense_from):
    values, positions = ops.pack_2_4(torch.tensor([[1.0, 2.0, 0.0, 0.0]]))
    x = torch.ones(6, 4)
    x[:, 3] = float("nan")  # at a dropped place: only the dense product multiplies it, by zero
    for m in range(1, 7):
        dense = dense_from is not None and m >= dense_from
        assert call(x[:m], values, positions, 4, policy=policy).isnan().all() == dense


@pytest.mark.parametrize(
    ("special", "expected"),
    [(float("inf"), float("inf")), (float("nan"), float("nan")), (-100.0, 0.0), (100.0, 100.0)],
)
@pytest.mark.parametrize("epilogue", ["relu", "gelu", "gelu_tanh", "silu"])
def test_activations_at_their_ends(epilogue, special, expected):
    values, positions = ops.pack_2_4(torch.eye(4))
    y = call(torch.zeros(1, 4), values, positions, 4, bias=torch.full((4,), special), epilogue=epilogue)
    torch.testing.assert_close(y, torch.full((1, 4), expected), equal_nan=True)


@pytest.mark.parametrize("epilogue", ["gelu", "gelu_tanh", "silu"])
def test_activations_follow_torch_closely(epilogue):
    reference = {"gelu": F.gelu, "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"), "silu": F.silu}[
        epilogue
    ]
    values, positions = ops.pack_2_4(torch.eye(4))
    x = torch.linspace(-12, 12, 4000).view(-1, 4)
    exact = reference(x.double())
    error = (call(x, values, positions, 4, epilogue=epilogue).double() - exact).abs()
    assert (error <= 4e-7 * (exact.abs() + x.double().abs() * exact.abs() + 1e-7)).all()


def refusals():
    values, positions = ops.pack_2_4(torch.randn(8, 16))
    x, half = torch.randn(3, 16), torch.randn(3, 16).half()
    good = {"x": x, "values": values, "positions": positions, "k": 16}
    yield good | {"x": torch.randn(3, 15)}, r"x must be \[..., 16\], got \[3, 15\]"
    yield good | {"x": torch.tensor(1.0)}, r"x must be"
    yield good | {"x": half}, "x must have the dtype of the weight, Float, got Half"
    yield (
        good | {"x": x.double(), "values": values.double()},
        "values must be float32, bfloat16 or float16, got Double",
    )
    yield good | {"bias": torch.randn(9)}, r"bias must be \[8\], got \[9\]"
    yield good | {"bias": torch.randn(8).half()}, "bias must have the dtype"
    yield good | {"residual": torch.randn(3, 9)}, "residual must have the shape of the result"
    yield good | {"residual": torch.randn(1, 8)}, "residual must have the shape of the result"
    yield good | {"residual": torch.randn(3, 8).half()}, "residual must have the dtype"
    yield good | {"k": 20}, "in_features 20 needs values"
    yield good | {"k": -4}, "in_features must not be negative"
    yield good | {"positions": positions.int()}, "positions must be uint8"
    yield good | {"positions": positions[:4]}, "in_features 16 needs values"
    yield good | {"epilogue": "tanh"}, "epilogue must be none, relu"
    yield good | {"policy": [1]}, "policy must be pairs"
    yield good | {"policy": [1, 9]}, "policy names kernel 9"
    yield good | {"policy": [4, CPU, 2, DENSE]}, "rows in policy must rise"


@pytest.mark.parametrize(("arguments", "message"), list(refusals()))
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(RuntimeError, match="sparseflow::linear: .*" + message):
        call(**arguments)


def test_positions_that_no_packing_makes_stay_in_bounds():
    values = torch.ones(8, 2, dtype=torch.bfloat16)
    positions = torch.full((8, 1), 0xFF, dtype=torch.uint8)
    for m in (1, 40):
        assert call(torch.ones(m, 4, dtype=torch.bfloat16), values, positions, 4).isfinite().all()


def test_several_threads_at_once():
    problems = []
    for dtype in (torch.float32, torch.bfloat16):
        weight, values, positions = packed(200, 300, dtype)
        problems += [(torch.randn(m, 300).to(dtype), weight, values, positions) for m in (1, 6, 40, 300)]

    def work(i):
        x, weight, values, positions = problems[i % len(problems)]
        y = call(x, values, positions, 300, policy=[1, CPU if i % 3 else DENSE])
        torch.testing.assert_close(y.float(), F.linear(x.float(), weight.float()), rtol=2e-2, atol=5e-2)
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(240)))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_thread_count_gives_the_same_result(threads):
    weight, values, positions = packed(90, 70)
    x = torch.randn(37, 70)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        torch.testing.assert_close(call(x, values, positions, 70), F.linear(x, weight))
    finally:
        torch.set_num_threads(before)
