"""Open files of safetensors, as types: the library annotates none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class UnreadTensor(Protocol):
    """A tensor of a file, not read yet."""

    def get_shape(self) -> list[int]:
        """Return its shape."""

    def get_dtype(self) -> str:
        """Return its element type as the format spells it, such as ``"F8_E4M3"``."""


class TensorFile(Protocol):
    """What `safetensors.safe_open` returns."""

    def keys(self) -> list[str]:
        """Return the names of its tensors."""

    def get_tensor(self, name: str) -> Tensor:
        """Read a tensor."""

    def metadata(self) -> dict[str, str] | None:
        """Return what the file says beside its tensors."""

    def get_slice(self, name: str) -> UnreadTensor:
        """Return a tensor without reading it."""
