import pytest
import torch
from gpu_weights import TOLERANCE, error, inputs, linear, packed, pruned, reference

from sparseflow.runtime import gpu, ops
from sparseflow.runtime.kernels import Choice

BF16 = torch.bfloat16
N, K = 256, 512


def zeros(*sizes, dtype=BF16, device="cuda"):
    return torch.zeros(*sizes, dtype=dtype, device=device)


def refusals():
    fp32 = torch.float32
    yield (
        {"x": (4, K), "dtype": fp32},
        r"x must be BFloat16 \[\.\.\., 512\] on cuda:0, got Float \[4, 512\] on cuda:0",
    )
    yield {"x": (4, K + 1)}, r"got BFloat16 \[4, 513\]"
    yield {"x": (4, K), "device": "cpu"}, r"on cuda:0, got BFloat16 \[4, 512\] on no CUDA device"
    yield {"bias": (N,), "dtype": fp32}, r"bias must be BFloat16 \[256\] on cuda:0, got Float \[256\]"
    yield {"bias": (N + 1,)}, r"bias must be BFloat16 \[256\] on cuda:0, got BFloat16 \[257\]"
    yield {"bias": (N,), "device": "cpu"}, r"bias must be .* on no CUDA device"
    yield {"residual": (4, N), "dtype": fp32}, r"residual must be BFloat16 \[4, 256\] on cuda:0, got Float"
    yield {"residual": (2, 2 * N)}, r"residual must be BFloat16 \[4, 256\] on cuda:0, got BFloat16 \[2, 512\]"
    yield {"residual": (4, N), "device": "cpu"}, r"residual must be .* on no CUDA device"
    yield {"dense": (N, K), "dtype": fp32}, r"dense must be BFloat16 \[256, 512\] on cuda:0, got Float"
    yield {"dense": (K, N)}, r"dense must be .* got BFloat16 \[512, 256\]"
    yield {"dense": (N, K), "device": "cpu"}, r"dense must be .* on no CUDA device"


@pytest.mark.parametrize(("wrong", "message"), list(refusals()))
def test_a_tensor_that_does_not_fit_is_refused_by_both_sides_names(wrong, message):
    wrong = dict(wrong)
    options = {key: wrong.pop(key) for key in ("dtype", "device") if key in wrong}
    arguments = {name: zeros(*sizes, **options) for name, sizes in wrong.items()}
    arguments.setdefault("x", zeros(4, K))
    with pytest.raises(RuntimeError, match="sparseflow::linear: .*" + message):
        linear(weight=packed(pruned(N, K, BF16)), **arguments)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([1], "policy must be pairs"),
        ([4, 2, 2, 0], "the rows in policy must rise"),
        ([1, 1], "policy names kernel 1, which CUDA doesn't have"),
        ([1, 0 | 7 << 8], "policy has the code 1792, which means nothing for kernel 0"),
        ([1, -254], "policy has the code -254"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(policy, message):
    device = packed(pruned(N, K, BF16))
    for call in (
        lambda: linear(zeros(4, K), device, policy=policy),
        lambda: gpu.path(device, 4, policy),
        lambda: gpu.prepare(device, [4], policy),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()


def test_unknown_epilogues_and_dtypes_are_refused():
    device = packed(pruned(N, K, BF16))
    with pytest.raises(
        RuntimeError, match="epilogue must be none, relu, gelu, gelu_tanh or silu, got 'tanh'"
    ):
        linear(zeros(4, K), device, epilogue="tanh")
    eight = gpu.compress(pruned(N, K, torch.int8))
    with pytest.raises(RuntimeError, match="values must be float32, bfloat16 or float16, got Char"):
        linear(zeros(4, K, dtype=torch.int8), eight)
    with pytest.raises(RuntimeError, match=r"needs values .* of 1, 2 or 4 bytes"):
        gpu.DeviceWeight.from_portable(
            zeros(8, 2, dtype=torch.float64), zeros(8, 1, dtype=torch.uint8), in_features=4
        )


@pytest.mark.parametrize(("m", "n", "k"), [(0, 64, 64), (5, 0, 64), (5, 64, 0), (0, 0, 0)])
def test_empty_tensors_give_what_linear_gives(m, n, k):
    groups = (k + 3) // 4
    weight = gpu.DeviceWeight.from_portable(
        zeros(n, 2 * groups), zeros(n, (groups + 1) // 2, dtype=torch.uint8), in_features=k
    )
    bias, residual = inputs(1, n, BF16)[0], inputs(m, n, BF16)
    y = linear(zeros(m, k), weight, bias, residual)
    assert torch.equal(y, torch.nn.functional.linear(zeros(m, k), zeros(n, k), bias) + residual)


def test_a_dense_range_uses_the_dense_weight_that_came_along():
    weight, other = pruned(N, K, BF16), inputs(N, K, BF16, seed=9)
    device, x = packed(weight), inputs(20, K, BF16)
    policy = [1, Choice("cusparselt", 0).code, 16, 0]
    assert gpu.prepare(device, [8, 20], policy) == 1
    assert torch.equal(linear(x, device, policy=policy, dense=other), torch.nn.functional.linear(x, other))
    assert (
        error(linear(x[:8], device, policy=policy, dense=other), reference(x[:8], weight)) < TOLERANCE[BF16]
    )


def test_the_path_is_told_in_a_sentence_and_asking_changes_nothing():
    weight = pruned(N, K, torch.float16)
    device, x = packed(weight), inputs(1111, K, torch.float16)
    policy = [1, Choice("cusparselt", 3).code, 64, 0]
    assert gpu.path(device, 64, policy) == "dense: the policy says so"
    assert gpu.path(device, 0, policy) == "nothing: the result is empty"
    torch.ops.sparseflow.plans_wait()
    built, absent = (
        gpu.stats().built,
        ("its plan is not built yet", "cusparselt, algorithm 0, once"),
    )
    assert gpu.path(device, 1111).startswith(absent)
    assert (gpu.stats().built, gpu.stats().pending) == (built, 0)
    linear(x, device)
    assert gpu.path(device, 1111).endswith(("for now: its plan is being built", "cusparselt, algorithm 0"))
    gpu.prepare(device, [63], policy)
    assert gpu.path(device, 1111) == "cusparselt, algorithm 0"
    assert gpu.path(device, 63, policy) == "cusparselt, algorithm 3"
    assert gpu.path(device, 1111, bias=True).startswith(absent)
    assert (
        gpu.path(packed(pruned(N, K, torch.float32)), 8)
        == "dense: cuSPARSELt has no product of Float giving Float"
    )


def test_a_plan_that_cannot_be_built_leaves_the_call_dense_and_says_why():
    weight = pruned(N, K, BF16)
    device, x, policy = packed(weight), inputs(40, K, BF16), [1, Choice("cusparselt", 9999).code]
    assert error(linear(x, device, policy=policy), reference(x, weight)) < TOLERANCE[BF16]
    torch.ops.sparseflow.plans_wait()
    path = gpu.path(device, 40, policy)
    assert path.startswith("dense: building its plan failed: cuSPARSELt: algorithm 9999 is not below")
    assert "algorithm 9999" in gpu.failures()
    assert error(linear(x, device, policy=policy), reference(x, weight)) < TOLERANCE[BF16]


def at(offset, device):
    """The same weight in a buffer that starts `offset` bytes into an allocation."""
    values, positions = device.values.contiguous().view(torch.uint8).flatten(), device.positions
    buffer = torch.empty(offset + values.numel() + positions.numel(), dtype=torch.uint8, device="cuda")[
        offset:
    ]
    buffer[: values.numel()] = values
    buffer[values.numel() :] = positions
    split = buffer[: values.numel()].view(device.values.dtype).view(device.values.shape)
    return gpu.DeviceWeight(split, buffer[values.numel() :], device.in_features)


@pytest.mark.parametrize("offset", [0, 2, 8, 16])
def test_a_weight_anywhere_in_memory_gives_the_same_product(offset):
    weight = pruned(N, K, BF16)
    device, x = at(offset, packed(weight)), inputs(20, K, BF16)
    gpu.prepare(device, [20])
    assert error(linear(x, device), reference(x, weight)) < TOLERANCE[BF16]
    assert torch.equal(device.dense(), weight)
    sparse = gpu.path(device, 20) == "cusparselt, algorithm 0"
    assert sparse == (offset % 16 == 0), gpu.path(device, 20)


def test_values_and_positions_apart_run_densely_and_say_so():
    weight = pruned(N, K, BF16)
    whole, x = packed(weight), inputs(20, K, BF16)
    device = gpu.DeviceWeight(whole.values.clone(), whole.positions, K)
    assert error(linear(x, device), reference(x, weight)) < TOLERANCE[BF16]
    assert gpu.path(device, 20) == "dense: values and positions do not lie in one buffer"


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
@pytest.mark.parametrize("m", [1, 17, 77])
def test_what_lies_behind_x_and_the_residual_reaches_no_result(m, dtype):
    weight = pruned(N, K, dtype)
    device = packed(weight)
    gpu.prepare(device, [m], residual=True)
    x, residual = (torch.full((m + 64, width), float("nan"), device="cuda", dtype=dtype) for width in (K, N))
    x[:m], residual[:m] = inputs(m, K, dtype), inputs(m, N, dtype)
    y = linear(x[:m], device, residual=residual[:m])
    assert gpu.path(device, m, residual=True) == "cusparselt, algorithm 0"
    assert error(y, reference(x[:m], weight, residual=residual[:m])) < 2 * TOLERANCE[dtype]


def random_packed(n, k):
    """A weight that was never dense: N·K beyond 2³¹ leaves no room for pruning it."""
    codes = torch.tensor([4, 8, 12, 9, 13, 14], dtype=torch.uint8, device="cuda")
    low, high = (codes[torch.randint(6, (n, k // 8), device="cuda")] for _ in range(2))
    values = torch.empty(n, k // 2, device="cuda", dtype=BF16).normal_(std=0.1)
    return values, low | high << 4


@pytest.mark.parametrize(("m", "n", "k"), [(131080, 64, 16448), (16, 131136, 16448)])
def test_more_than_two_to_the_31_elements(m, n, k):
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of free GPU memory")
    values, positions = random_packed(n, k)
    device = gpu.DeviceWeight.from_portable(values, positions, k)
    x = torch.empty(m, k, device="cuda", dtype=BF16).normal_()
    gpu.prepare(device, [m])
    assert gpu.path(device, m) == "cusparselt, algorithm 0"
    tail = ops.unpack_2_4(values[-64:], positions[-64:], k)
    expected = reference(x[-16:], tail)
    for policy in ([], [1, 0]):
        y = linear(x, device, policy=policy)
        assert error(y[-16:, -64:], expected) < TOLERANCE[BF16], policy
        del y
    assert torch.equal(device.dense()[-64:], tail)
