"""Run a model kept on the host by moving its blocks to a device one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType

import torch
from torch import nn

from sparseflow.pruning.calibration import moved


@contextmanager
def offloaded(blocks: Sequence[nn.Module], host: torch.device, device: torch.device | None) -> Iterator[None]:
    """Run blocks on `device`: each is moved there for its call and back after it.

    Args:
        blocks: the modules.
        host: where their outputs go.
        device: None runs them where they are.
    """
    if device is None:
        yield
        return

    def forward(block: nn.Module, *args: object, **kwargs: object) -> object:
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
    """Keep a block on `device` within a `with` block; None leaves it where it is."""
    home = device_of(block)
    try:
        if device is not None:
            block.to(device)
        yield
    finally:
        block.to(home)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
