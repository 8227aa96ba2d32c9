"""Validate calibration batches and run the model on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseflow.errors import ArgumentError, CalibrationError, InferenceOnlyError, SparseFlowError
from sparseflow.support.training_mode import trained_part

_T = TypeVar("_T")

Call = tuple[tuple[object, ...], dict[str, object]]
"""Positional and keyword inputs of a model."""

_SHAPES = "each batch is a tensor, a tuple of positional inputs, or a mapping of keyword inputs"


@dataclass(frozen=True)
class Calibration:
    """A model and the batches to run it on.

    Attributes:
        model: in evaluation mode.
        calls: the positional and keyword inputs of each batch.
    """

    model: nn.Module
    calls: Sequence[Call]

    @classmethod
    def of(cls, model: nn.Module, batches: Iterable[object]) -> Calibration:
        """Check a model and its batches.

        Raises:
            ArgumentError: `batches` is no iterable of batches, or has none.
            InferenceOnlyError: the model or a part of it is in training mode.
        """
        if (training := trained_part(model)) is not None:
            rule = f"{training or 'the model'} is in training mode: dropout would calibrate"
            raise InferenceOnlyError("sf.prune(model)", rule, "model.eval()")
        require_batches("calibration", batches)
        calls = [as_call(f"calibration batch {index}", batch) for index, batch in enumerate(batches)]
        if not calls:
            raise ArgumentError("calibration", "holds no batch", "pass some tens of typical inputs")
        return cls(model, calls)

    def run(self, index: int) -> None:
        """Run the model on one batch, moved to the model's device.

        Raises:
            CalibrationError: the model refuses the batch.
            torch.OutOfMemoryError: the device's memory doesn't hold it.
        """
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        args, kwargs = moved(self.calls[index], device)
        try:
            self.model(*args, **kwargs)
        except (SparseFlowError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise CalibrationError(
                f"calibration batch {index}",
                f"the model refuses it: {type(error).__name__}: {error}",
                f"pass what model(…) takes; {_SHAPES}",
            ) from error


def require_batches(name: str, batches: object) -> None:
    """Refuse anything but an iterable of batches; a single batch isn't one.

    Raises:
        ArgumentError: says what `name` must be.
    """
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        found = type(batches).__name__
        raise ArgumentError(name, f"must be an iterable of batches, not a {found}", _SHAPES)


def as_call(name: str, batch: object) -> Call:
    """Return the positional and keyword inputs of a batch.

    Raises:
        ArgumentError: the batch called `name` is no tensor, tuple, list or mapping.
    """
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)):
        return tuple(batch), {}
    raise ArgumentError(name, f"is a {type(batch).__name__}", _SHAPES)


def moved(tree: _T, device: torch.device) -> _T:
    """Return the same tree with its tensors on `device`."""
    to = pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)
    return cast(_T, to)


def padding_mask(kwargs: Mapping[str, object]) -> Tensor | None:
    """Return the attention mask of a call if it has one that is a tensor, else None."""
    mask = kwargs.get("attention_mask")
    return mask if isinstance(mask, Tensor) else None


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Disable torch's fused transformer kernels, which hide the inputs of single layers."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Turn running out of the memory of `device` into an error with a remedy.

    Raises:
        CalibrationError: instead of `torch.OutOfMemoryError`.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CalibrationError(
            f"sf.prune(device={str(device)!r})",
            "its memory doesn't hold a block with one batch and the statistics of one layer",
            "pass smaller calibration batches, skip=(…) the widest layers, or device='cpu'",
        ) from error
