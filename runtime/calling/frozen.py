"""A module of fixed programs, which refuses calls that convert, copy, train or inspect modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn, Self

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, InferenceOnlyError

_CONVERSIONS = "to(), half(), float(), double(), bfloat16(), type(), cuda(), cpu() and the like"


class FrozenModule(nn.Module):
    """A module whose programs hold packed weights; calls that would change or read them are refused.

    No call is silently ignored. No-ops are accepted, such as ``eval()``, or ``float()`` in float32.

    Args:
        subject: how errors call it.
    """

    def __init__(self, subject: str) -> None:
        super().__init__()
        self._subject = subject
        self.training = False

    @property
    def _way_out(self) -> str:
        """How to get such a module with other weights, or on another device."""
        return "change the original model, and compile it again"

    @property
    def _way_to_keep(self) -> str:
        """How to save it."""
        return "compiled.save(path) writes it, sf.load(path) reads it"

    def _samples(self) -> Iterable[Tensor]:
        """Return empty tensors, one for each dtype and device among its weights."""
        raise NotImplementedError

    def _refuse(self, call: str, rule: str, remedy: str) -> NoReturn:
        raise ArgumentError(f"{self._subject}.{call}", rule, remedy)

    def state_dict(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: its weights are packed and merged and have no names of the model.

        Raises:
            ArgumentError: always.
        """
        rule = "its weights are packed and merged, under no names that a model has"
        self._refuse(
            "state_dict()", rule, f"{self._way_to_keep}; the original model has its own state_dict()"
        )

    def load_state_dict(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: weights are packed during compilation.

        Raises:
            ArgumentError: always.
        """
        self._refuse("load_state_dict()", "its weights were packed when it was compiled", self._way_out)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Implement ``to()``, ``half()`` and the like: refuse if they would change a tensor."""
        for sample in self._samples():
            try:
                changed = fn(sample) is not sample
            except Exception as error:  # such as a device that doesn't exist
                self._refuse("to()", f"{_CONVERSIONS} fail: {str(error).splitlines()[0]}", self._way_out)
            if changed:
                rule = f"{_CONVERSIONS} can't change it: it is of {sample.dtype} on {sample.device}"
                self._refuse("to()", rule, self._way_out)
        return self

    def apply(self, fn: Callable[[nn.Module], object]) -> NoReturn:
        """Refuse: it has no submodules to apply a function to.

        Raises:
            ArgumentError: always.
        """
        self._refuse("apply()", "it has no submodules to apply a function to", self._way_out)

    def share_memory(self) -> NoReturn:
        """Refuse: packed weights can't be moved to shared memory.

        Raises:
            ArgumentError: always.
        """
        rule = "its packed weights can't be moved to shared memory"
        self._refuse("share_memory()", rule, f"{self._way_to_keep}: processes share the mapped files")

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Refuse to require gradients; turning them off is a no-op.

        Raises:
            InferenceOnlyError: `requires_grad` is true.
        """
        if requires_grad:
            raise self._inference_only("requires_grad_()")
        return self

    def zero_grad(self, set_to_none: bool = True) -> NoReturn:
        """Refuse: it has no gradients.

        Raises:
            InferenceOnlyError: always.
        """
        raise self._inference_only("zero_grad()")

    def train(self, mode: bool = True) -> Self:
        """Refuse training mode.

        Raises:
            InferenceOnlyError: `mode` is true.
        """
        if mode:
            raise self._inference_only("train()")
        return self

    def __copy__(self) -> Self:
        """Return another module over the same programs."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        self._refuse("copy.deepcopy", "its programs can't be copied", self._way_out)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self._refuse("pickle and torch.save", "its programs can't be pickled", self._way_to_keep)

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse torch.jit.script, which calls this."""
        rule = "torch.jit can't compile it: it chooses among programs in Python"
        self._refuse("torch.jit.script", rule, self._way_to_keep)

    def _replicate_for_data_parallel(self) -> NoReturn:
        rule = f"its weights stay on {next(iter(self._samples()), torch.empty(0)).device}"
        self._refuse("nn.DataParallel", rule, "compile a copy of the model on each GPU")

    def _inference_only(self, call: str) -> InferenceOnlyError:
        return InferenceOnlyError(
            f"{self._subject}.{call}",
            "a compiled model is for inference only",
            "train the original model and compile it again",
        )


def samples(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return empty tensors, one for each dtype and device among floating-point tensors."""
    kinds = dict.fromkeys((t.dtype, t.device) for t in tensors if t.is_floating_point())
    return [torch.empty(0, dtype=dtype, device=device) for dtype, device in kinds]


def require_uncompiled(model: object, call: str, *, parts: bool = True) -> None:
    """Refuse a compiled module where the original model is needed.

    Args:
        model: the argument to check.
        call: for the error, such as ``sf.prune(model)``.
        parts: whether to check its submodules too.

    Raises:
        ArgumentError: it, or one of the checked parts, is compiled.
    """
    for name, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, FrozenModule) and (parts or not name):
            part = f" in {name}" if name else ""
            rule = f"model must be the one that was compiled, not the {module._subject}{part}"
            raise ArgumentError(call, rule, "give it the original model, then compile that")
