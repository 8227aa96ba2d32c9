"""The report of pruning."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from sparseflow.support.text_table import Column, text_table


@dataclass(frozen=True)
class PrunedLayer:
    """The outcome for one linear layer.

    Attributes:
        name: the layer's name in the model.
        N: its out features.
        K: its in features.
        method: how it was pruned; None if it stayed dense.
        rows: calibration rows (tokens) that reached it.
        rel_err: ‖W − W'‖ / ‖W‖ in the Frobenius norm; None if it stayed dense.
        output_err: ‖XWᵀ − XW'ᵀ‖ / ‖XWᵀ‖ over calibration rows X, evenly sampled where there are many, as they
            arrive with all earlier blocks pruned; None without calibration.
        reason: why it stayed dense; empty if it was pruned.
        permuted: whether its input channels, and the layers that write them, were permuted.
        pattern: the name of the pattern that it was pruned to; None if it stayed dense.
    """

    name: str
    N: int
    K: int
    method: str | None
    rows: int
    rel_err: float | None
    output_err: float | None
    reason: str
    permuted: bool = False
    pattern: str | None = None


@dataclass(frozen=True)
class PruneReport:
    """The report of `sparseflow.prune`.

    Attributes:
        layers: every linear layer, in the order of the model's modules.
        notes: further remarks for the caller, in full sentences.
        pattern: the name of the pattern that the layers were pruned to, or "mixed".
    """

    layers: tuple[PrunedLayer, ...]
    notes: tuple[str, ...] = ()
    pattern: str = "2:4"

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        layers = [asdict(layer) for layer in self.layers]
        return {"pattern": self.pattern, "layers": layers, "notes": list(self.notes)}

    def table(self, width: int = 130) -> str:
        """Return the report as text, one line a layer."""
        counts = Counter(layer.pattern for layer in self.layers if layer.pattern)
        each = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
        to = each if self.pattern == "mixed" and each else self.pattern
        title = f"{counts.total()} of {len(self.layers)} linear layers pruned to {to}"
        return text_table(title, _COLUMNS, map(_cells, self.layers), self.notes, width)


_COLUMNS: tuple[Column, ...] = (
    ("layer", "left"),
    ("N×K", "right"),
    ("method", "left"),
    ("pattern", "left"),
    ("rows", "right"),
    ("weight err", "right"),
    ("output err", "right"),
    ("stays dense because", "left"),
)


def _cells(layer: PrunedLayer) -> tuple[str, ...]:
    return (
        layer.name,
        f"{layer.N}×{layer.K}",
        (layer.method or "dense") + (", permuted" if layer.permuted else ""),
        layer.pattern or "",
        str(layer.rows),
        _figure(layer.rel_err),
        _figure(layer.output_err),
        layer.reason,
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
