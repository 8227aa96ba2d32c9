"""The report of `sparsify`: which layers it replaced, and why others stay dense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sparseflow.errors import FormatWarning
from sparseflow.support.text_table import Column, text_table
from sparseflow.support.user_warnings import warn

SHOWN_NAMES = 3
"""Layers that a warning names for each reason; the others are counted."""


@dataclass(frozen=True)
class SparsifiedLayer:
    """The outcome for one linear layer.

    Attributes:
        name: the layer's name in the model.
        N: its out features.
        K: its in features.
        format: the format of its packed weight; None if it stayed dense.
        reason: why it stayed dense; empty if it was replaced.
    """

    name: str
    N: int
    K: int
    format: str | None
    reason: str


@dataclass(frozen=True)
class SparsifyReport:
    """The report of `sparseflow.nn.sparsify`.

    Attributes:
        layers: every linear layer that was dense before, in the order of the model's modules.
    """

    layers: tuple[SparsifiedLayer, ...]

    @property
    def replaced(self) -> list[str]:
        """The names of the replaced layers."""
        return [layer.name for layer in self.layers if layer.format is not None]

    @property
    def dense(self) -> dict[str, str]:
        """The reason of each layer that stays dense, by the layer's name."""
        return {layer.name: layer.reason for layer in self.layers if layer.format is None}

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        return {"layers": [asdict(layer) for layer in self.layers]}

    def table(self, width: int = 130) -> str:
        """Return the report as text, one line a layer."""
        title = f"{len(self.replaced)} of {len(self.layers)} linear layers replaced"
        rows = [
            (layer.name, f"{layer.N}×{layer.K}", layer.format or "dense", layer.reason)
            for layer in self.layers
        ]
        return text_table(title, _COLUMNS, rows, (), width)

    def __str__(self) -> str:
        return self.table()


_COLUMNS: tuple[Column, ...] = (
    ("layer", "left"),
    ("N×K", "right"),
    ("format", "left"),
    ("stays dense because", "left"),
)


def warn_of_format(format: str, refused: Iterable[tuple[str, str]]) -> None:
    """Warn that layers can't have the format that was asked for, with each reason once.

    Args:
        format: the format's name.
        refused: (name, reason) of each layer that the format can't store; without any, nothing is said.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused:
        by_reason.setdefault(reason, []).append(name)
    if by_reason:
        lines = "; ".join(f"{_listed(names)}: {reason}" for reason, names in by_reason.items())
        warn(f"some layers can't be stored in {format} and stay dense: {lines}", FormatWarning)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
