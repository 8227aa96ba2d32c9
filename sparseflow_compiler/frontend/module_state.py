"""Track buffers that a forward pass assigns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from sparseflow.errors import CaptureError


@dataclass(frozen=True)
class Buffers:
    """The buffers of a model's modules; every entry is (module, path of it, name, tensor)."""

    entries: list[tuple[nn.Module, str, str, torch.Tensor]]

    @classmethod
    def of(cls, model: nn.Module) -> Buffers:
        """Record the modules' current buffers."""
        return cls(
            [
                (module, path, name, value)
                for path, module in _own_modules(model)
                for name, value in module._buffers.items()
                if value is not None
            ]
        )

    def write_assigned(self) -> None:
        """Turn assignments of new tensors to buffers, which torch.export misses, into writes.

        Raises:
            CaptureError: a buffer changes its shape or dtype.
        """
        for module, path, name, old in self.entries:
            new = module._buffers.get(name)
            if new is not old:
                old.copy_(_like(old, new, f"{path}.{name}"))
                module._buffers[name] = old


def _like(old: torch.Tensor, new: torch.Tensor | None, name: str) -> torch.Tensor:
    if new is not None and new.shape == old.shape and new.dtype == old.dtype:
        return new
    found = None if new is None else f"{list(new.shape)} {new.dtype}"
    raise CaptureError(
        name,
        f"forward assigns {found} to the buffer of {list(old.shape)} {old.dtype}",
        "keep a buffer's shape and dtype, or return the new value",
    )


def _own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module except TorchScript ones, whose state is outside Python."""
    for path, module in model.named_modules(prefix=type(model).__name__):
        if not isinstance(module, torch.jit.ScriptModule):
            yield path, module
