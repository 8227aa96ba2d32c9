"""Pruning on the GPU with the model on the host."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import CalibrationError
from sparseflow.pruning import pruner


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def blocks(device="cpu"):
    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(3))).double().eval()
    return model.to(device), [torch.randn(200, 64, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("reconstruct", [None, "layer", "block"])
def test_blocks_pruned_on_the_gpu_one_by_one_are_those_of_a_model_that_is_there(reconstruct):
    (model, batches), (resident, _) = blocks(), blocks("cuda")
    options = {"reconstruct": reconstruct, "steps": 20, "permute": True}
    sf.prune(model, "sparsegpt", batches, device="cuda", **options)
    sf.prune(resident, "sparsegpt", batches, **options)
    for one, other in zip(model.parameters(), resident.parameters(), strict=True):
        assert one.device.type == "cpu"
        torch.testing.assert_close(one, other.cpu(), rtol=1e-6, atol=1e-9)
    assert "forward" not in vars(model[0])


def test_layers_are_taken_one_by_one_where_memory_is_short_and_refused_where_that_fails(monkeypatch):
    model, batches = blocks()
    gather = pruner.gather

    def short(layers, *args, **kwargs):
        if len(layers) > 1:
            raise torch.OutOfMemoryError("short")
        return gather(layers, *args, **kwargs)

    def none(*args, **kwargs):
        raise torch.OutOfMemoryError("none")

    monkeypatch.setattr(pruner, "gather", short)
    report = sf.prune(model, "sparsegpt", batches, device="cuda")
    assert all(layer.method for layer in report.layers)
    monkeypatch.setattr(pruner, "gather", none)
    with pytest.raises(
        CalibrationError, match=r"sf.prune\(device='cuda:0'\).*\n.*smaller calibration batches"
    ):
        sf.prune(model, "sparsegpt", batches, device="cuda")
