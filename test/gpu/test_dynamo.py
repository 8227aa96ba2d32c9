"""`torch.compile(backend="sparseflow")` and `sf.profile` on a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.integrations import torch as dynamo


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(512, 1024)
        self.down = nn.Linear(1024, 512)

    def forward(self, x):
        y = torch.relu(self.up(x))
        torch._dynamo.graph_break()
        return x + self.down(y)


@pytest.fixture
def model():
    torch._dynamo.reset()
    yield nn.Sequential(Block(), Block()).to("cuda", torch.bfloat16).eval()
    torch._dynamo.reset()


def pruned(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(sf.prune_24(module.weight))
    return twin


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_a_model_with_graph_breaks_equals_the_pruned_one(model, inner):
    reference = pruned(model)
    run = torch.compile(
        model, backend="sparseflow", options={"prune": "magnitude", "policy": "sparse", "inner": inner}
    )
    with torch.no_grad():
        for rows in (8, 16, 257):
            x = torch.randn(rows, 512, device="cuda", dtype=torch.bfloat16)
            torch.testing.assert_close(run(x), reference(x), rtol=2e-2, atol=2e-2)
    layers = {layer.name: layer.decision for layer in dynamo.report(model).layers}
    assert layers == dict.fromkeys(("0.up", "0.down", "1.up", "1.down"), "sparse")


def test_a_model_that_moves_to_the_gpu_is_packed_there(model):
    model = model.cpu()
    run = torch.compile(model, backend="sparseflow", options={"prune": "magnitude", "policy": "sparse"})
    x = torch.randn(8, 512, dtype=torch.bfloat16)
    with torch.no_grad():
        run(x)
        model.cuda()
        found, expected = run(x.cuda()), pruned(model)(x.cuda())
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_a_profile_sees_each_kernel_of_the_device_once(inner):
    layers = (nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 1024))
    model = nn.Sequential(*layers).to("cuda", torch.bfloat16).eval()
    x = torch.randn(256, 1024, device="cuda", dtype=torch.bfloat16)
    found = sf.profile(model, (x,), calls=4, seconds=0.2, prune="magnitude", policy="sparse", inner=inner)
    for side in (found.dense, found.compiled):
        assert sum(side.shares.values()) == pytest.approx(100)
        assert not [
            kernel for kernel in side.kernels if "::" in kernel.name and kernel.name.startswith("aten")
        ]
    products = [kernel for kernel in found.dense.kernels if kernel.kind == "GEMM" and kernel.us > 2]
    assert sum(kernel.calls for kernel in products) == pytest.approx(2)
    assert found.compiled.us_by_kind["GEMM"] > 0
    assert found.compiled.shares["other"] < 5
