"""The tensors that a model's modules hold, and what a forward pass does to them by assignment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparseflow.errors import CaptureError

_Held = tuple[nn.Module, str, str, torch.Tensor]
_TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class ModuleState:
    """The tensors of a model's modules: buffers, and plain attributes."""

    buffers: list[_Held]
    attributes: list[_Held]

    @classmethod
    def of(cls, model: nn.Module) -> ModuleState:
        """Record what the modules hold now; every entry is (module, path of it, attribute, tensor)."""
        buffers: list[_Held] = []
        attributes: list[_Held] = []
        for path, module in _own_modules(model):
            for table, entries in ((module._buffers, buffers), (vars(module), attributes)):
                tensors = [(name, value) for name, value in table.items() if isinstance(value, torch.Tensor)]
                entries += [(module, path, name, value) for name, value in tensors]
        return cls(buffers, attributes)

    def write_assigned(self) -> None:
        """Turn the assignment of a new tensor to a buffer, which torch.export overlooks, into a write.

        Raises:
            CaptureError: a buffer changes its shape or dtype, or a tensor that is no buffer is replaced.
        """
        for module, path, name, old in self.buffers:
            new = module._buffers.get(name)
            if new is not old:
                old.copy_(_like(old, new, f"{path}.{name}"))
                module._buffers[name] = old
        for module, path, name, old in self.attributes:
            if getattr(module, name, old) is not old:
                raise CaptureError(
                    f"{path}.{name}",
                    "the model replaces this tensor in forward, which a captured program can't carry over",
                    f"make it a buffer: register_buffer({name!r}, …)",
                )


def _like(old: torch.Tensor, new: torch.Tensor | None, name: str) -> torch.Tensor:
    if new is not None and new.shape == old.shape and new.dtype == old.dtype:
        return new
    found = None if new is None else f"{list(new.shape)} {new.dtype}"
    raise CaptureError(
        name,
        f"forward assigns {found} to the buffer of {list(old.shape)} {old.dtype}",
        "keep a buffer's shape and dtype, or return the new value",
    )


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Undo what tracing `model` leaves in its modules' attributes, fake tensors above all."""
    saved = [
        (module, dict(vars(module)), {table: dict(vars(module)[table]) for table in _TABLES})
        for _, module in _own_modules(model)
    ]
    try:
        yield
    finally:
        for module, attributes, entries in saved:
            vars(module).clear()
            vars(module).update(attributes)
            for table, content in entries.items():
                _refill(attributes[table], content)


def _refill(table: dict[str, Any], content: dict[str, Any]) -> None:
    table.clear()
    table.update(content)


def _own_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module but those of TorchScript, whose state is not Python's."""
    for path, module in model.named_modules(prefix=type(model).__name__):
        if not isinstance(module, torch.jit.ScriptModule):
            yield path, module
