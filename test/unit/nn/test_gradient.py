"""Gradients flow through packed layers, to their inputs and biases, as through dense ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparseflow.nn import SparseLinear, densify
from sparseflow.runtime import compress_2_4, prune_24

SIZES = [(16, 16), (33, 20), (17, 37)]  # N, K


def layers(n: int, k: int, memory: str = "compressed") -> tuple[SparseLinear, nn.Linear]:
    torch.manual_seed(n)
    packed = compress_2_4(prune_24(torch.randn(n, k)))
    sparse = SparseLinear(packed, torch.randn(n), policy="sparse", memory=memory)
    sparse.bias.requires_grad_()
    model = nn.Sequential(copy.deepcopy(sparse))
    densify(model)
    return sparse, model[0]


def gradients(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Of a nonlinear loss to x and bias, and of the norm of the first again to x."""
    x = x.clone().requires_grad_()
    loss = layer(x).float().tanh().square().sum()
    to_x, to_bias = torch.autograd.grad(loss, (x, layer.bias), create_graph=True)
    (again,) = torch.autograd.grad(to_x.square().sum(), x)
    return to_x.detach(), to_bias.detach(), again


@pytest.mark.parametrize(("n", "k"), SIZES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_they_are_those_of_the_dense_layer(n, k, shape):
    sparse, dense = layers(n, k)
    x = torch.randn(*shape, k)
    for got, expected in zip(gradients(sparse, x), gradients(dense, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert x.grad is None
    assert all(not buffer.requires_grad for buffer in sparse.buffers())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_they_are_in_the_dtypes_of_what_they_belong_to(dtype):
    sparse, dense = layers(33, 20)
    x = torch.randn(5, 20)
    with torch.autocast("cpu", dtype):
        got, expected = gradients(sparse, x), gradients(dense, x)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.1)


def test_a_frozen_bias_gets_none_and_a_trained_one_does_without_a_gradient_of_x():
    sparse, dense = layers(16, 16)
    x = torch.randn(3, 16)
    sparse(x).square().sum().backward()
    dense.bias.requires_grad_()
    dense(x).square().sum().backward()
    torch.testing.assert_close(sparse.bias.grad, dense.bias.grad)
    sparse.bias.grad = None
    sparse.bias.requires_grad_(False)
    sparse(x.requires_grad_()).sum().backward()
    assert sparse.bias.grad is None
    assert not sparse(x.detach()).requires_grad


@pytest.mark.parametrize("how", ["checkpoint", "compile", "func"])
def test_they_flow_where_torch_runs_the_layer_in_its_own_ways(how):
    sparse, dense = layers(33, 20)
    x = torch.randn(5, 20)

    def loss(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x).tanh().square().sum()

    expected = torch.func.grad(lambda x: loss(dense, x))(x)
    if how == "func":
        got = torch.func.grad(lambda x: loss(sparse, x))(x)
    else:
        sparse(x)  # settles its policy
        run = torch.compile(sparse, backend="aot_eager") if how == "compile" else sparse
        leaf = x.clone().requires_grad_()
        out = checkpoint(run, leaf, use_reentrant=False) if how == "checkpoint" else run(leaf)
        out.tanh().square().sum().backward()
        got = leaf.grad
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
