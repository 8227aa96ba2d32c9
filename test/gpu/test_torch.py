"""The operator inside torch's machinery, on CUDA."""

import pytest
import torch
import torch.nn.functional as F
from gpu_weights import TOLERANCE, error, inputs, linear, packed, pruned, reference
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._triton import has_triton

from sparseflow.errors import InferenceOnlyError
from sparseflow.runtime import gpu, ops
from sparseflow.runtime.kernels import Choice

N, K, BF16 = 256, 512, torch.bfloat16


@pytest.fixture
def layer():
    weight = pruned(N, K, BF16)
    device = packed(weight)
    gpu.prepare(device, [5, 17, 100], bias=True)
    return weight, device, inputs(1, N, BF16, seed=4)[0]


def test_inference_mode_and_gradients(layer):
    weight, device, bias = layer
    x = inputs(17, K, BF16)
    with torch.inference_mode():
        y = linear(x, device, bias)
    assert error(y, reference(x, weight, bias)) < TOLERANCE[BF16]
    with pytest.raises(InferenceOnlyError):
        linear(x.requires_grad_(), device, bias)


def test_autocast_brings_everything_to_the_dtype_of_the_weight(layer):
    weight, device, _ = layer
    x, bias, residual = (torch.randn(*s, device="cuda") for s in ((17, K), (N,), (17, N)))
    gpu.prepare(device, [17], bias=True, residual=True)
    hits = gpu.stats().hits
    with torch.no_grad(), torch.autocast("cuda", dtype=BF16):
        y = linear(x, device, bias, residual)
        dense = linear(x, device, bias, residual, policy=[1, 0], dense=weight.float())
    assert y.dtype == dense.dtype == BF16
    expected = reference(x.to(BF16), weight, bias.to(BF16), residual.to(BF16))
    assert error(y, expected) < 2 * TOLERANCE[BF16]
    assert error(dense, expected) < 2 * TOLERANCE[BF16]
    assert gpu.stats().hits == hits + 1


BACKENDS = [
    "eager",
    "aot_eager",
    pytest.param("inductor", marks=pytest.mark.skipif(not has_triton(), reason="no Triton")),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_into_one_graph_and_serves_every_batch_size(layer, backend):
    weight, device, bias = layer
    values, positions = device.values, device.positions

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def compiled(x):
        return F.silu(ops.linear(x * 2, values, positions, bias, None, K, "none", [])) + 1

    with torch.no_grad():
        for m in (5, 17, 100):
            x = inputs(m, K, BF16, seed=m)
            expected = F.silu(reference(x * 2, weight, bias)) + 1
            assert error(compiled(x), expected) < 3 * TOLERANCE[BF16]


@pytest.mark.skipif(not has_triton(), reason="no Triton")
def test_compiles_with_cuda_graphs(layer):
    weight, device, bias = layer
    back = pruned(K, N, BF16, seed=3)
    second = packed(back)
    gpu.prepare(second, [17])
    (v1, p1), (v2, p2) = ((d.values, d.positions) for d in (device, second))

    @torch.compile(fullgraph=True, mode="reduce-overhead")
    def compiled(x):
        hidden = torch.relu(ops.linear(x, v1, p1, bias, None, K, "none", []))
        return ops.linear(hidden, v2, p2, None, None, N, "none", []) * 2

    with torch.inference_mode():
        for seed in range(5):
            x = inputs(17, K, BF16, seed=seed)
            hidden = reference(x, weight, bias, epilogue="relu").to(BF16)
            assert error(compiled(x).clone(), reference(hidden, back) * 2) < 3 * TOLERANCE[BF16]


def test_opcheck(layer):
    weight, device, bias = layer
    arguments = (inputs(5, K, BF16), device.values, device.positions, bias, None, K, "relu")
    with torch.no_grad():  # on copies of the arguments, which run densely
        torch.library.opcheck(ops.linear, (*arguments, []))
        torch.library.opcheck(ops.linear, (*arguments, [1, 0], weight))


@pytest.mark.parametrize("shape", [(N, K), (203, 452)])
@pytest.mark.parametrize("kernel", ["cusparselt", "skinny", "dense"])
def test_the_fake_is_like_the_result_of_every_path(kernel, shape):
    (n, k), policy = shape, [1, Choice(kernel).code]
    device, bias = packed(pruned(n, k, BF16)), inputs(1, n, BF16)[0]
    for lead in ((5,), (2, 3), ()):
        x, residual = (torch.randn(*lead, width, device="cuda", dtype=BF16) for width in (k, n))
        for epilogue, extra in (("relu", None), ("silu", residual)):
            arguments = (x, device.values, device.positions, bias, extra, k, epilogue, policy)
            y = ops.linear(*arguments)
            with FakeTensorMode() as mode:
                fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
                fake = ops.linear(*fakes)
            assert (fake.shape, fake.stride(), fake.dtype, fake.device) == (
                y.shape,
                y.stride(),
                y.dtype,
                y.device,
            )
