"""The buffers of a model, and what a forward pass does to them by assignment."""

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
        """Record what the modules hold now."""
        return cls(
            [
                (module, path, name, value)
                for path, module in _own_modules(model)
                for name, value in module._buffers.items()
                if value is not None
            ]
        )

    def write_assigned(self) -> None:
        """Turn the assignment of a new tensor to a buffer, which torch.export overlooks, into a write.

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
    """Every module but those of TorchScript, whose state is not Python's."""
    for path, module in model.named_modules(prefix=type(model).__name__):
        if not isinstance(module, torch.jit.ScriptModule):
            yield path, module
