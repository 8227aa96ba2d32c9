"""Detect models that would compute something else in evaluation mode."""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable
from typing import cast

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

_TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""They have dropout in modules of their own, and take another path in training mode."""


def trained_part(model: nn.Module) -> str | None:
    """Return the name of a module whose training mode makes the model differ from evaluation mode.

    The model's own flag counts in any case. Modules added to a model later start in training mode,
    which makes no difference for most, such as linear layers.

    Returns:
        Empty for the model itself, None if there is none.
    """
    for name, module in model.named_modules():
        if module.training and (not name or differs_in_training(module)):
            return str(name)
    return None


def differs_in_training(module: nn.Module) -> bool:
    """Return whether a module's own code may compute something else in training mode."""
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return bool(module.dropout)
    if isinstance(module, (_NormBase, nn.RReLU, *_TRANSFORMERS)):
        return True
    return _reads_flag(cast(Hashable, type(module)))


@functools.cache
def _reads_flag(kind: Hashable) -> bool:
    """Return whether the code of a class that isn't torch's or ours mentions the flag."""
    known = ("torch", "builtins", "sparseflow")
    own = (base for base in type.mro(cast(type, kind)) if base.__module__.split(".")[0] not in known)
    values = (value for base in own for value in vars(base).values())
    functions = (value for value in values if isinstance(value, types.FunctionType))
    return any("training" in _names(function.__code__) for function in functions)


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names}.union(*inner)
