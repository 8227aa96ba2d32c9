"""The saved models that `fuzz_load.py` changes, each with calls that it serves."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparseflow as sf

Pair = namedtuple("Pair", "total difference")


@dataclass
class Note:
    """An output that no pytree knows."""

    value: Tensor
    size: int


class Odd(nn.Module):
    """A buffer that is written, an input that grows, containers of many kinds, sizes that go together."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.up = nn.Linear(64, 128)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, y: list[Tensor] | None = None) -> dict[object, object]:
        """Something of each kind."""
        self.calls += 1
        up = self.up(x).masked_fill(x.sum() > 1e9, float("-inf"))
        other = up if y is None else y[0].reshape(up.shape)
        pair = Pair(up + other, up - other)
        return {"pair": pair, 3: (self.calls * 1, None), "note": Note(up, 7), "shape": up.shape[0]}


def save_all(folder: Path) -> None:
    """Save every model, and beside it its calls as ``NAME.pt``."""
    torch.manual_seed(0)
    x = torch.randn(2, 64)
    for name, model, calls, stored in (
        ("plain", nn.Sequential(nn.Linear(64, 32), nn.ReLU()), [(x,)], "2:4"),
        ("odd", Odd(), [(x,), (x[0],), (x, [torch.randn(2, 128)])], "2:4"),
        ("fp8", nn.Sequential(nn.Linear(64, 64), nn.GELU()).bfloat16(), [(x.bfloat16(),)], "2:4-fp8"),
    ):
        how: dict[str, Any] = {"prune": "magnitude", "policy": "sparse", "format": stored}
        compiled = sf.compile(model.eval(), **how, progress=False)
        for call in calls:
            compiled(*call)
        compiled.save(folder / name)
        torch.save(calls, folder / f"{name}.pt")
    save_contextual(folder)


def save_contextual(folder: Path) -> None:
    """Save an MLP that reads the neurons that a predictor selects: only so, and with 2:4 for more rows."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    predictors = sf.train_predictor(model, [torch.randn(400, 64)], steps=0, progress=False)
    calls = [(torch.randn(rows, 64),) for rows in (1, 3, 40)]
    for name, stored in (("contextual", None), ("contextual+2:4", "2:4")):
        how: dict[str, Any] = {
            "prune": "magnitude",
            "format": stored,
            "contextual": predictors,
            "policy": "sparse",
        }
        compiled = sf.compile(model, progress=False, **how)
        for call in calls:
            compiled(*call)
        compiled.save(folder / name)
        torch.save(calls, folder / f"{name}.pt")
