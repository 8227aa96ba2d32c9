"""Norms of a step that move into the products around them, and those that stay."""

import pytest
import torch
from torch import fx, nn

from sparseflow.execution.norms_in_products import norms_into_products
from sparseflow.runtime import ops
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.normed_products import skinny_after_norm, skinny_before_norm

WIDTH, HIDDEN, EPS = 128, 192, 1e-5
aten = torch.ops.aten


class Block(nn.Module):
    """Two norms of a stream, each between products: one by an addition, one by a residual."""

    def __init__(
        self, policies=("1:skinny@20", "1:skinny@40", "1:skinny@52", "1:skinny@16"), dtype=torch.bfloat16
    ):
        super().__init__()
        self.policies = [Policy.parse(text).to_ints() for text in policies]
        shapes = [(WIDTH, WIDTH), (2 * HIDDEN, WIDTH), (WIDTH, HIDDEN), (WIDTH, WIDTH)]
        for at, (n, k) in enumerate(shapes):
            values, positions = ops.pack_2_4(ops.prune_2_4(torch.randn(n, k) / k**0.5).to(dtype))
            self.register_buffer(f"values_{at}", values)
            self.register_buffer(f"positions_{at}", positions)
        for at in range(2):
            self.register_buffer(f"norm_{at}", (1 + torch.randn(WIDTH) / 4).to(dtype))

    def layer(self, at, x, k, epilogue="none", residual=None):
        values, positions = getattr(self, f"values_{at}"), getattr(self, f"positions_{at}")
        return ops.linear(x, values, positions, None, residual, k, epilogue, self.policies[at])

    def normed(self, at, stream):
        wide = aten.to.dtype(stream, torch.float32)
        mean = aten.mean.dim(aten.pow.Tensor_Scalar(wide, 2), [-1], True)
        whole = aten.mul.Tensor(wide, aten.rsqrt.default(aten.add.Scalar(mean, EPS)))
        return aten.mul.Tensor(getattr(self, f"norm_{at}"), aten.to.dtype(whole, self.norm_0.dtype))

    def forward(self, h, stream):
        stream = aten.add.Tensor(stream, self.layer(0, h, WIDTH))
        a = self.layer(1, self.normed(0, stream), WIDTH, "silu_gated")
        stream = self.layer(2, a, HIDDEN, residual=stream)
        return self.layer(3, self.normed(1, stream), WIDTH), stream


def targets(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_products_take_the_norms_between_them(rows):
    torch.manual_seed(rows)
    graph = fx.symbolic_trace(block := Block())
    assert norms_into_products(graph, rows) == 2
    assert aten.rsqrt.default not in targets(graph)
    assert [targets(graph).count(op) for op in (skinny_before_norm, skinny_after_norm, ops.linear)] == [
        2,
        2,
        0,
    ]
    graph.graph.lint()
    block.policies = [[]] * 4  # a CPU has none of these kernels
    h, stream = (scale * torch.randn(rows, 1, WIDTH).bfloat16() for scale in (1, 3))
    stream[0, 0, :2] = 3e4  # a massive activation, which a weight of 3 takes out of float16's range
    for ours, eager in zip(graph(h, stream), block(h, stream), strict=True):
        assert (ours.dtype, ours.shape) == (eager.dtype, eager.shape)
        assert (ours.double() - eager.double()).norm() < 1e-2 * eager.double().norm()


def test_what_the_kernels_say_of_sizes_is_true():
    torch.manual_seed(0)
    graph = fx.symbolic_trace(Block())
    norms_into_products(graph, 2)
    h, stream = (torch.randn(2, 1, WIDTH).to(torch.bfloat16) for _ in range(2))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = graph(mode.from_tensor(h), mode.from_tensor(stream))
    assert [(t.shape, t.dtype) for t in fakes] == [(t.shape, t.dtype) for t in graph(h, stream)]


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("other", ["1:cusparselt@3", "1:skinny@5", "1:skinny@20,2:cusparselt@0", "1:dense"])
def test_other_kernels_keep_their_norms(at, other):
    policies = ["1:skinny@20"] * 4
    policies[at] = other
    graph = fx.symbolic_trace(Block(policies))
    assert norms_into_products(graph, 2) == 1
    left = targets(graph)
    assert left.count(aten.rsqrt.default) == 1


def test_many_rows_and_float16_keep_their_norms():
    assert norms_into_products(fx.symbolic_trace(Block()), 33) == 0
    assert norms_into_products(fx.symbolic_trace(Block(dtype=torch.float16)), 1) == 0


def test_a_norm_that_something_else_reads_stays():
    class Read(Block):
        def forward(self, h, stream):
            stream = aten.add.Tensor(stream, self.layer(0, h, WIDTH))
            normed = self.normed(0, stream)
            return self.layer(3, normed, WIDTH), normed

    assert norms_into_products(fx.symbolic_trace(Read()), 1) == 0


def test_a_stream_that_no_layer_gives_stays():
    class Given(Block):
        def forward(self, h, stream):
            return self.layer(3, self.normed(0, aten.add.Tensor(stream, h)), WIDTH)

    assert norms_into_products(fx.symbolic_trace(Given()), 1) == 0
