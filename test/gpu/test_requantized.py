"""Layers in fp8 whose rows go on in e4m3, on every kernel, beside rows that are quantised after them."""

import pytest
import torch
from gpu_weights import error, inputs
from test_fp8 import SAME, prepare, weight_of

from sparseflow.execution.inner import Inductor
from sparseflow.runtime import fp8
from sparseflow.runtime.fp8_between import linear_fp8_requantized
from sparseflow.runtime.kernels import Choice

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="this GPU has no tensor cores for fp8",
)

M, N, K = 600, 4608, 1152
CHOICES = {"wide": Choice("wide", 0), "cusparselt": Choice("cusparselt", 3), "dense": Choice("dense", 0)}


def of_kernel(name, n=N, k=K, dtype=torch.bfloat16):
    """A weight ready for the kernel, and the policy that names it."""
    if name == "wide" and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernel for many rows is for sm_90")
    weight, policy = weight_of(n, k, dtype), [1, CHOICES[name].code]
    if name == "cusparselt":
        prepare(weight, [M], policy)
    return weight, policy


def both(x, weight, bias, epilogue, policy):
    """Rows as they go on, and quantised after the layer that writes them in 16 bits."""
    rows, parts = fp8.quantize_rows(x), (weight.values, weight.positions, weight.scales, bias)
    rest = (weight.in_features, epilogue, x.dtype, policy)
    y = fp8.linear_fp8_quantized(*rows, *parts, None, *rest)
    return linear_fp8_requantized(*rows, *parts, *rest), fp8.quantize_rows(y)


def dequantized(rows):
    return rows[0].double() * rows[1].double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "epilogue", ["none", "gelu", "gelu_tanh", "silu", "relu", "silu_gated", "gelu_gated"]
)
@pytest.mark.parametrize("kernel", CHOICES)
def test_are_the_layers_rows(kernel, epilogue, dtype):
    weight, policy = of_kernel(kernel, dtype=dtype)
    # To ten times, not more: what a gate multiplies must stay in float16's range.
    x = inputs(M, K, dtype) * torch.logspace(-2, 1, M, device="cuda")[:, None].to(dtype)
    for bias in (None, inputs(1, N, dtype, seed=1)[0]):
        ours, apart = both(x, weight, bias, epilogue, policy)
        assert [(t.shape, t.dtype) for t in ours] == [(t.shape, t.dtype) for t in apart]
        close = dequantized(apart)
        lost = (dequantized(ours) - close).norm(dim=1) / close.norm(dim=1).clamp(min=1e-30)
        # A sum that is rounded the other way is an e4m3 number, a sixteenth, away: few are.
        assert lost.max() < 4 * SAME
        torch.testing.assert_close(ours[1], apart[1], rtol=2e-2, atol=0)


@pytest.mark.parametrize("hidden", [256, 2048, 8192, 16384, 16448])
def test_rows_of_every_length(hidden):
    """Held by a thread in two, four and eight pieces; those beyond are written and read again."""
    weight, policy = of_kernel("cusparselt", hidden, 256)
    x = inputs(M, 256, torch.bfloat16)
    ours, apart = both(x, weight, None, "gelu_tanh", policy)
    assert (dequantized(ours) - dequantized(apart)).norm() < SAME * dequantized(apart).norm() * 4


def test_a_row_of_nan_stays_one():
    weight, policy = of_kernel("cusparselt")
    x = inputs(M, K, torch.bfloat16)
    x[7, 3] = float("nan")
    (_, scale), _ = both(x, weight, None, "gelu_tanh", policy)
    assert scale[7].isnan().all()
    assert scale[:7].isfinite().all()
    assert scale[8:].isfinite().all()


@pytest.mark.parametrize("epilogue", ["gelu_tanh", "silu_gated"])
@pytest.mark.parametrize("kernels", [("wide", "cusparselt"), ("cusparselt", "wide"), ("dense", "cusparselt")])
def test_a_compiled_mlp(kernels, epilogue):
    width = N // 2 if epilogue.endswith("_gated") else N
    (up, of_up), (down, of_down) = of_kernel(kernels[0]), of_kernel(kernels[1], K, width)
    x, residual = inputs(M, K, torch.bfloat16), inputs(M, K, torch.bfloat16, seed=2)

    def eager(*parts):
        h = fp8.linear_fp8(x, *parts[:3], None, None, K, epilogue, of_up)
        return (fp8.linear_fp8(h, *parts[3:], None, residual, width, "none", of_down),)

    graph = torch.fx.GraphModule({}, torch.fx.Graph())
    nodes = [graph.graph.placeholder(f"input_{i}") for i in range(8)]
    up_args = (nodes[0], *nodes[2:5], None, None, K, epilogue, of_up)
    h = graph.graph.call_function(fp8.linear_fp8, up_args)
    y = graph.graph.call_function(fp8.linear_fp8, (h, *nodes[5:], None, nodes[1], width, "none", of_down))
    graph.graph.output((y,))
    graph.recompile()
    with torch.no_grad():
        (ours,) = Inductor(graph, "default")(x, residual, *up.tensors, *down.tensors)
        assert error(ours, eager(*up.tensors, *down.tensors)[0].double()) < 4 * SAME
