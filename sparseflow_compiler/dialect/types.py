"""Read and write ``!torch.vtensor`` types, for which the bindings have no class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch_mlir import ir

from sparseflow.runtime.formats import WEIGHT_DTYPES

SPARSE_DTYPES = WEIGHT_DTYPES
"""Element types of the weights that can be sparse."""

_VTENSOR = re.compile(r"!torch\.vtensor(?:<(?P<shape>\*|\[[^\]]*\]),(?P<dtype>[^,]+)(?P<rest>,.*)?>)?")


@dataclass(frozen=True)
class TensorType:
    """A value-semantic tensor type.

    Attributes:
        shape: sizes, None for a dynamic one; None as a whole if the rank is unknown.
        dtype: element type as MLIR spells it (``f32``); None if unknown.
    """

    shape: tuple[int | None, ...] | None
    dtype: str | None

    @property
    def rank(self) -> int | None:
        """Number of dimensions; None if unknown."""
        return None if self.shape is None else len(self.shape)

    def dim(self, index: int) -> int | None:
        """Return the static size of a dimension; None if it is dynamic or the rank is unknown."""
        return None if self.shape is None else self.shape[index]

    def with_last(self, size: int | None) -> TensorType:
        """Return the type with another last dimension."""
        shape = None if self.shape is None else (*self.shape[:-1], size)
        return TensorType(shape, self.dtype)

    def build(self) -> ir.Type:
        """Return the MLIR type, in the current context."""
        return ir.Type.parse(str(self))

    def __str__(self) -> str:
        if self.shape is None and self.dtype is None:
            return "!torch.vtensor"
        return f"!torch.vtensor<{_format_shape(self.shape)},{self.dtype or 'unk'}>"


def _format_shape(shape: tuple[int | None, ...] | None) -> str:
    return "*" if shape is None else f"[{','.join('?' if size is None else str(size) for size in shape)}]"


@lru_cache(maxsize=4096)
def _parse(text: str) -> TensorType | None:
    match = _VTENSOR.fullmatch(text)
    # A third parameter is a sparse encoding; passes assume strided tensors.
    if match is None or match["rest"]:
        return None
    dtype = match["dtype"]
    return TensorType(_parse_shape(match["shape"]), None if dtype == "unk" else dtype)


def _parse_shape(text: str | None) -> tuple[int | None, ...] | None:
    if text is None or text == "*":
        return None
    return tuple(None if size.strip() == "?" else int(size) for size in text[1:-1].split(",") if size)


def tensor_type(of: ir.Value | ir.Type) -> TensorType | None:
    """Return the tensor type of a value or type; None if it isn't a strided ``!torch.vtensor``."""
    return _parse(str(of.type if isinstance(of, ir.Value) else of))


def types_by_role(values: Mapping[str, ir.Value]) -> tuple[dict[str, TensorType], str]:
    """Return the tensor types of values by role, and why the first that isn't a tensor is wrong, or ""."""
    types: dict[str, TensorType] = {}
    for role, value in values.items():
        type_ = tensor_type(value)
        if type_ is None:
            return types, f"needs a !torch.vtensor as {role}, not '{value.type}'"
        types[role] = type_
    return types, ""


def same_size(a: int | None, b: int | None) -> bool:
    """Return whether two sizes can be equal: they are, or one of them is dynamic."""
    return a is None or b is None or a == b


def compatible(a: TensorType, b: TensorType) -> bool:
    """Return whether two types can be those of one value, as far as they are known."""
    if a.dtype is not None and b.dtype is not None and a.dtype != b.dtype:
        return False
    if a.shape is None or b.shape is None:
        return True
    return len(a.shape) == len(b.shape) and all(map(same_size, a.shape, b.shape))
