"""Shallow copies of models and submodules whose forward is a compiled one."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily

_PRODUCTS = {functional.linear, torch.addmm}


class DenseWatch(TorchFunctionMode):
    """Detect linear layers that run outside of compiled programs."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = False

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self.dense = self.dense or func in _PRODUCTS
        return func(*args, **(kwargs or {}))


def compiled_forward(model: nn.Module, compiled: Callable[..., object]) -> Callable[..., object]:
    """Wrap a compiled forward in the model's signature, which transformers inspects."""

    @functools.wraps(model.forward)
    def forward(*args: object, **kwargs: object) -> object:
        args = tuple(
            dict(value) if isinstance(value, UserDict) else value for value in args
        )  # a BatchEncoding
        watching = isinstance(_get_current_function_mode(), DenseWatch)  # type: ignore[no-untyped-call]
        with _pop_mode_temporarily() if watching else contextlib.nullcontext():
            return compiled(*args, **kwargs)

    return forward


def with_compiled(root: nn.Module, path: str, compiled: Callable[..., object]) -> None:
    """Replace the forward of a submodule by a compiled one.

    Args:
        root: a shallow copy of a model, changed in place; modules on the path are copied too.
        path: of the submodule.
        compiled: the new forward.
    """
    name, _, rest = path.partition(".")
    part = root.get_submodule(name)
    copied = copy.copy(part)
    if rest:
        with_compiled(copied, rest, compiled)
    else:
        vars(copied)["forward"] = compiled_forward(part, compiled)
    vars(root)["_modules"] = {**root._modules, name: copied}
