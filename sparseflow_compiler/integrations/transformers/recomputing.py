"""Recompute the layers of a model in the backward pass, while dropout stays off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from sparseflow.errors import ArgumentError


@contextmanager
def recomputed_layers(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Within the block, keep only the inputs of a transformers model's layers for the backward pass.

    transformers recomputes layers that are in training mode. Only the layers themselves are put into it, not
    what they consist of: dropout and its like stay in evaluation mode.

    Args:
        model: in evaluation mode.
        wanted: whether to do so at all.

    Raises:
        ArgumentError: the model has no layers that can be recomputed.
    """
    if not wanted:
        yield
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ArgumentError(
            "sf.recover(gradient_checkpointing=True)",
            f"{type(model).__name__} doesn't support it",
            "leave it out, and lower micro instead",
        )
    _switch(model, "enable")({"use_reentrant": False})
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer in layers:
            layer.training = False
        _switch(model, "disable")()


def _switch(model: nn.Module, way: str) -> Callable[..., object]:
    """Return a method that transformers 5.24 calls otherwise than the versions before."""
    now = getattr(model, f"activation_checkpointing_{way}", None)
    found: Callable[..., object] = now or getattr(model, f"gradient_checkpointing_{way}")
    return found
