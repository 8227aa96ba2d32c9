"""The dense baseline of a compiled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from sparseflow.execution.inner import chosen_inner

if TYPE_CHECKING:
    from sparseflow.execution.inner import Inner


def opponent(
    model: nn.Module, device: torch.device, *, inner: Inner = "auto", mode: str | None = None, **_: object
) -> tuple[str, Callable[..., object]]:
    """Return the dense model's runner of the same kind as the compiled one's: its name and callable.

    Inductor compiles it for each shape, as dynamic-shape kernels are slower.

    Args:
        model: in evaluation mode.
        device: where it is.
        inner: of `sparseflow.compile`.
        mode: of `sparseflow.compile`; its other options change nothing here.
    """
    if chosen_inner(inner, device) != "inductor":
        return "eager", model
    return "inductor", torch.compile(model, mode=mode, dynamic=False)
