"""Running a model that stays on the host with its blocks moved to a device one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import nn

from sparseflow.pruning.calibration import moved


@contextmanager
def offloaded(blocks: Sequence[nn.Module], host: torch.device, device: torch.device | None) -> Iterator[None]:
    """Let blocks run on `device`: each comes there for its call, and goes back where it was.

    Args:
        blocks: the modules.
        host: where their outputs go.
        device: None runs them where they are.
    """
    if device is None:
        yield
        return

    def forward(block: nn.Module, *args: object, **kwargs: object) -> Any:
        home = device_of(block)
        block.to(device)
        args, kwargs = moved((args, kwargs), device)
        try:
            return moved(type(block).forward(block, *args, **kwargs), host)
        finally:
            if home != device:
                block.to(home)

    for block in blocks:
        # A bound method: a deep copy of the block gets one that is bound to the copy.
        block.forward = MethodType(forward, block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextmanager
def resident(block: nn.Module, device: torch.device | None) -> Iterator[None]:
    """Keep a block on `device` for the length of a `with` block; None leaves it where it is."""
    home = device_of(block)
    try:
        if device is not None:
            block.to(device)
        yield
    finally:
        block.to(home)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter is; the CPU for one that has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
