"""Layer norms that become kernels which hold a row, with what is around them."""

import pytest
import torch
from torch import fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from sparseflow.execution.norms_held import SHORTEST, hold_normed_rows
from sparseflow.execution.rows_between import keep_rows_quantized
from sparseflow.runtime import fp8, prune_24
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.normed_rows import LONGEST, normed_rows
from sparseflow.runtime.packed import pack

BATCH, TOKENS, K = 2, 512, 1152
SPARSE, WIDE = (Policy.parse(text).to_ints() for text in ("1:cusparselt@3", "1:wide@2"))
ATEN = torch.ops.aten


def weight(n, k):
    """The parts of a layer, with its bias."""
    packed = pack(prune_24(torch.randn(n, k) * 0.05).bfloat16(), "2:4-fp8")
    return (*packed.tensors, torch.randn(n).bfloat16())


CLOSE = 8e-2
"""Of results whose rows were rounded to e4m3 at other places; a wrong operand would differ by its size."""


def layer(x, parts, n, k, policy=SPARSE, end="none"):
    return fp8.linear_fp8(x, *parts, None, k, end, policy)


def block(x, h, time, out, up, down, policy):
    """What follows attention in a block of a diffusion transformer, and the next block's norm."""
    gate, factor, shift, gate_mlp = time.unsqueeze(2).unbind(1)
    total = ATEN.add.Tensor(x, ATEN.mul.Tensor(gate, layer(h, out, K, K, policy)))
    rows = ATEN.layer_norm.default(total, [K], None, None, 1e-6, False)
    rows = ATEN.add.Tensor(ATEN.mul.Tensor(rows, ATEN.add.Scalar(factor, 1)), shift)
    mlp = layer(layer(rows, up, 2 * K, K, policy, "gelu_tanh"), down, K, 2 * K, policy)
    total = ATEN.add.Tensor(total, ATEN.mul.Tensor(gate_mlp, mlp))
    rows = ATEN.layer_norm.default(total, [K], None, None, 1e-6, False)
    return layer(rows, out, K, K, policy), total


def traced(function, *given, device="cuda"):
    """A program as torch.compile gives it to a backend: of tensors on a GPU, without one."""
    flat, spec = torch.utils._pytree.tree_flatten(given)
    names = [f"x{i}" for i in range(len(flat))]
    scope = {"call": lambda *leaves: function(*torch.utils._pytree.tree_unflatten(leaves, spec))}
    exec(f"def flat({', '.join(names)}): return call({', '.join(names)})", scope)
    graph = fx.symbolic_trace(scope["flat"])
    with FakeTensorMode() as mode:
        fakes = [torch.empty(t.shape, dtype=t.dtype, device=device) for t in flat]
        FakeTensorProp(graph, mode).propagate(*fakes)
    for node in graph.graph.nodes:
        node.meta["example_value"] = node.meta.get("val")
    return graph, flat, fakes, mode


def inputs(policy=SPARSE):
    torch.manual_seed(0)
    x, h = (torch.randn(BATCH, TOKENS, K).bfloat16() for _ in range(2))
    parts = [weight(n, k) for n, k in ((K, K), (2 * K, K), (K, 2 * K))]
    return x, h, torch.randn(BATCH, 4, K).bfloat16(), *parts, policy


def calls(graph):
    return [node for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("policy", [SPARSE, WIDE], ids=["cusparselt", "wide"])
def test_a_block_keeps_its_results(policy):
    *given, _ = inputs()
    graph, flat, fakes, mode = traced(lambda *a: block(*a, policy), *given)
    expected = graph(*flat)
    keep_rows_quantized(graph)
    assert hold_normed_rows(graph) == 2
    norms = [node for node in calls(graph) if node.target is normed_rows]
    assert [node.args[-1] for node in norms] == [True, True]
    assert [node.args[2] is not None for node in norms] == [policy is SPARSE] * 2
    assert ATEN.layer_norm.default not in [node.target for node in calls(graph)]
    for one, other in zip(graph(*flat), expected, strict=True):
        assert (one.float() - other.float()).norm() < CLOSE * other.float().norm()
    with mode:
        make_fx(graph)(*fakes)  # what inductor is given


def plain(norm, x, parts, device="cuda"):
    def function(x, *parts):
        return layer(norm(x), parts, 64, x.shape[-1])

    return traced(function, x, *parts, device=device)


def norm_of(k):
    return lambda x: ATEN.layer_norm.default(x, [k])


def test_a_norm_alone_with_weight_and_bias():
    x, affine, parts = torch.randn(3, 600, K).bfloat16(), torch.rand(K).bfloat16(), weight(64, K)

    def function(x, affine, *parts):
        return layer(ATEN.layer_norm.default(x, [K], affine, affine), parts, 64, K)

    graph, flat, _, _ = traced(function, x, affine, *parts)
    (expected,) = (graph(*flat),)
    assert hold_normed_rows(graph) == 1
    assert (graph(*flat).float() - expected.float()).norm() < CLOSE * expected.float().norm()


def test_what_an_addition_without_a_gate_and_two_readers_leave():
    x, y, parts = torch.randn(700, K).bfloat16(), torch.randn(700, K).bfloat16(), weight(64, K)

    def function(x, y, *parts):
        rows = ATEN.layer_norm.default(ATEN.add.Tensor(x, y), [K], None, None, 1e-6)
        return layer(rows, parts, 64, K), ATEN.neg.default(rows)

    graph, flat, _, _ = traced(function, x, y, *parts)
    expected = graph(*flat)
    assert hold_normed_rows(graph) == 1
    (norm,) = [node for node in calls(graph) if node.target is normed_rows]
    assert norm.args[-1] is False  # another one reads it in 16 bits
    for one, other in zip(graph(*flat), expected, strict=True):
        assert (one.float() - other.float()).norm() < CLOSE * other.float().norm()


@pytest.mark.parametrize(
    ("k", "device", "before"),
    [
        (SHORTEST - 1, "cuda", None),
        (LONGEST + 64, "cuda", None),
        (K, "cpu", None),
        (K, "cuda", torch.relu),
    ],
)
def test_norms_that_stay(k, device, before):
    """Of short rows and of those too long to hold, on a CPU, and after what inductor fuses with them."""
    norm = norm_of(k)
    held = (lambda x: norm(before(x))) if before else norm
    graph, *_ = plain(held, torch.randn(600, k).bfloat16(), weight(64, k // 64 * 64), device)
    assert hold_normed_rows(graph) == 0
