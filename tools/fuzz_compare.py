"""What a caller can see of a call, and where two calls differ in it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparseflow.errors import SparseFlowError

FINE, COARSE = 2e-4, 4e-2
"""Of the largest value: what float32 and what 16 bits may be off by."""


LIMITS = ("same dtype", "don't support automatic differentiation")
"""Of eager's errors, those for which a compiled model has no reason: it is for inference."""

RACE = "you are using FX to symbolically trace a dynamo-optimized function"
"""What torch.compile raises, before it asks any backend, while another thread traces: torch has one flag."""


@dataclass
class Record:
    """What came of one call.

    Attributes:
        error: what it raised.
        result: what it returned, frozen.
        same: which argument each tensor of the result is.
        aliases: the same, where it has all of the memory of one too, as ``x.detach()`` has.
        inputs: the arguments as the call left them, frozen.
        model: the model as the call left it, frozen.
        wrote: what a call that was refused changed all the same.
        coarse: whether something of 16 bits was computed.
    """

    error: Exception | None = None
    result: object = None
    same: Sequence[int | None] = ()
    aliases: Sequence[int | None] = ()
    inputs: object = None
    model: object = None
    wrote: str = ""
    coarse: bool = False

    @property
    def refused(self) -> bool:
        """Whether SparseFlow said that it can't."""
        return isinstance(self.error, SparseFlowError)

    @property
    def raced(self) -> bool:
        """Whether torch said that it can't because of another thread."""
        return RACE in str(self.error)


def judge(found: Record, expected: Record) -> tuple[str, str]:
    """What is wrong with a call: its kind, and where; empty where nothing is."""
    if found.refused and expected.error is not None and not isinstance(expected.error, SparseFlowError):
        return "", ""  # eager raises too, and may have changed as much before
    if found.refused:
        return ("a refused call changed something", found.wrote) if found.wrote else ("", "")
    if found.error is not None:
        if expected.error is not None:
            return "", ""
        return f"raw {type(found.error).__name__}", f": {found.error}"
    if expected.error is not None and any(text in str(expected.error) for text in LIMITS):
        return "", ""  # a result where eager wants a cast, or none for gradients, is no wrong one
    if expected.error is not None:
        return "no error", f" where eager raises {type(expected.error).__name__}: {expected.error}"
    tolerance = COARSE if expected.coarse else FINE
    for what in ("result", "inputs", "model"):
        said = difference(getattr(found, what), getattr(expected, what), tolerance)
        if said and not (what == "model" and None in (found.model, expected.model)):
            return f"other {what}: {_sort(said)}", said
    for one, same, alias in zip(found.same, expected.same, expected.aliases, strict=True):
        if one not in (same, alias):
            names = ["a new tensor" if i is None else f"argument {i}" for i in (one, same)]
            return "other identity", f": {names[0]} is returned instead of {names[1]}"
    return "", ""


def _sort(said: str) -> str:
    """What kind of difference it is, without places and numbers."""
    return re.sub(r"[\d.e-]+|\[[^]]*\]", "", said.rpartition(": ")[2])[:40]


def freeze(value: Any) -> object:
    """A copy in which nothing changes any more."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {"dict": type(value).__name__, **{repr(key): freeze(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(freeze, value)]
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return value
    return type(value).__name__


def difference(found: object, expected: object, tolerance: float = FINE) -> str:
    """Where two frozen values differ; an empty text where they don't."""
    if type(found) is not type(expected):
        return f": {_short(found)} instead of {_short(expected)}"
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        return _tensors(found, expected, tolerance)
    if isinstance(found, dict) and isinstance(expected, dict):
        if list(found) != list(expected):
            return f": keys {list(found)} instead of {list(expected)}"
        pairs = [(f"[{key}]", found[key], expected[key]) for key in found]
    elif isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)):
        if len(found) != len(expected):
            return f": {len(found)} items instead of {len(expected)}"
        pairs = [(f"[{i}]", a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))]
    elif isinstance(found, float) and isinstance(expected, float):
        same = found == expected or math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)
        return "" if same or (math.isnan(found) and math.isnan(expected)) else f": {found} not {expected}"
    else:
        return "" if found == expected else f": {_short(found)} instead of {_short(expected)}"
    for place, one, other in pairs:
        if said := difference(one, other, tolerance):
            return place + said
    return ""


def _short(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return repr(value)[:80]


def _tensors(found: Tensor, expected: Tensor, tolerance: float) -> str:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f": {_short(found)} instead of {_short(expected)}"
    if not found.is_floating_point():
        return "" if torch.equal(found, expected) else ": other integers"
    one, other = found.double(), expected.double()
    if torch.equal(one, other):
        return ""
    finite = other.isfinite()
    if not torch.equal(finite, one.isfinite()) or not torch.equal(
        one[~finite].nan_to_num(), other[~finite].nan_to_num()
    ):
        return ": other NaNs or infinities"
    scale = max(1.0, float(other[finite].abs().max())) if finite.any() else 1.0
    worst = float((one[finite] - other[finite]).abs().max()) / scale if finite.any() else 0.0
    return f": off by {worst:.2g}" if worst > tolerance else ""
