"""Models that run in one thread while another one captures."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.frontend.state.later import Held

pytestmark = pytest.mark.filterwarnings("ignore::sparseflow.errors.UnprunedWarning")


def _said_elsewhere() -> list[bool]:
    """What torch.compiler says in another thread at this moment."""
    said: list[bool] = []

    def ask() -> None:
        said.extend([torch.compiler.is_compiling(), torch.compiler.is_exporting()])

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return said


class AsksTheOthers(nn.Module):
    """Computes something else if another thread believes that it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if not torch.compiler.is_exporting():
            return x
        return x * 0 if any(_said_elsewhere()) else x


def test_a_thread_that_runs_eagerly_is_not_told_that_it_is_traced() -> None:
    """transformers and others leave out checks of values where torch.compiler says so."""
    model, x = AsksTheOthers().eval(), torch.rand(3, 16)
    with torch.no_grad():
        torch.testing.assert_close(sf.compile(model, prune=None, progress=False)(x), model(x))
    assert not torch.compiler.is_exporting()


def test_programs_that_another_thread_drops_are_no_longer_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It drops them while this one is looking for what changed."""
    model, x = nn.Sequential(nn.Linear(16, 16)).eval(), torch.rand(3, 16)
    compiled = sf.compile(model, prune=None, progress=False)
    compiled(x)
    model[0].weight = nn.Parameter(model[0].weight.detach() * 2)
    looks: list[bool] = []

    def look(held: Held) -> bool:
        if not looks:
            looks.append(True)
            thread = threading.Thread(target=compiled.refresh)
            thread.start()
            thread.join()
        return False

    monkeypatch.setattr(Held, "is_as_it_was", look)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    assert looks
