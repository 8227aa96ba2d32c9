"""The report of a compilation: every layer that multiplies by a weight, its decision and the reason."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Decision = Literal["sparse", "dense", "contextual"]


@dataclass(frozen=True)
class Range:
    """From `m_min` to `m_max` rows (``None``: no end) `backend` runs, measured `speedup` times dense.

    A backend with algorithms names the one that runs: ``cusparselt@7``.
    """

    m_min: int
    m_max: int | None
    backend: str
    speedup: float | None


@dataclass(frozen=True)
class FormatError:
    """What a lossy format cost a layer, beyond what pruning cost it.

    Attributes:
        weight: ‖W − W'‖ / ‖W‖ in the Frobenius norm, W pruned and W' what the format makes of it.
        output: ‖y − y'‖ / ‖y‖, y = x · Wᵀ + bias in float32 and y' as the layer runs, over some rows of x of
            the call that the program was captured with; ``None`` where it wasn't measured: W was released.
    """

    weight: float
    output: float | None

    def __str__(self) -> str:
        output = "not measured" if self.output is None else f"{self.output:.1%}"
        return f"relative error of the pruned weight {self.weight:.1%}, of its output {output}"


@dataclass(frozen=True)
class LayerReport:
    """One linear layer, or another product with a parameter, which is dense.

    Attributes:
        name: the layer's name in the model; of a parameter that isn't called ``weight``, the parameter's.
        N: its out features: of experts ``[E, N, K]`` those of all, of a recurrent layer those of all gates.
        K: its in features: of a convolution ``[N, C, …]`` channels times the kernel's size.
        dtype: of its weight.
        decision: what it runs as.
        reason: why, in a true sentence.
        ranges: which backend runs which M, for a sparse layer.
        bytes_dense: bytes of its weight before.
        bytes: bytes of its weight now; with an MLP's up layer, those of its predictor.
        rel_err: ‖W − pruned W‖ / ‖W‖ in the Frobenius norm; 0 where the weight was not changed.
        format: how its weight is stored; empty where it is dense.
        format_err: what that cost besides; ``None`` where the format stores the weight as it is.
    """

    name: str
    N: int
    K: int
    dtype: str
    decision: Decision
    reason: str
    ranges: tuple[Range, ...]
    bytes_dense: int
    bytes: int
    rel_err: float
    format: str = ""
    format_err: FormatError | None = None


class Reported(Protocol):
    """What a page can show: a profile, an evaluation, a tuning's result."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        ...


@dataclass
class Report:
    """What a compilation did, layer by layer, and for the model as a whole.

    Attributes:
        layers: every parameter that a product of a captured program multiplies by, once.
        model: figures of the whole: programs captured and why each, seconds for each stage, bytes.
    """

    layers: list[LayerReport] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dictionaries and lists, ready for JSON."""
        return {"layers": [asdict(layer) for layer in self.layers], "model": dict(self.model)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` made.

        Raises:
            KeyError, TypeError: it can't have made that.
        """
        return cls([_layer(layer) for layer in data["layers"]], dict(data["model"]))

    def to_html(self, path: str | os.PathLike[str], *others: Reported) -> None:
        """Write it as one HTML page that needs nothing else.

        Args:
            path: of the file.
            others: profiles, evaluations and the like to show on the same page.

        Raises:
            ArgumentError: the file can't be written.
        """
        self._write("html", path, others)

    def to_markdown(self, path: str | os.PathLike[str], *others: Reported) -> None:
        """Write it as Markdown; see `to_html`."""
        self._write("md", path, others)

    def to_png(self, path: str | os.PathLike[str], *others: Reported) -> None:
        """Write its drawings and the beginnings of its tables as a picture; see `to_html`.

        Raises:
            ArgumentError: matplotlib is missing, or the file can't be written.
        """
        self._write("png", path, others)

    def _write(self, form: str, path: str | os.PathLike[str], others: Iterable[Reported]) -> None:
        from sparseflow.reports import Source, page_of, write

        whole = [Source(type(part).__name__, part.to_dict()) for part in (self, *others)]
        write(page_of(whole), Path(path), form)

    def table(self, width: int = 150) -> str:
        """The report as text, one line a layer."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self._title(), title_justify="left", show_edge=False, pad_edge=False)
        for heading, justify in _COLUMNS:
            table.add_column(heading, justify=justify, overflow="fold")
        for layer in self.layers:
            table.add_row(*_cells(layer))
        table.add_section()
        table.add_row(*self._totals())
        text = io.StringIO()
        Console(file=text, width=width, markup=False, force_jupyter=False).print(table)
        return text.getvalue()

    def _title(self) -> str:
        sparse = sum(layer.decision == "sparse" for layer in self.layers)
        contextual = sum(layer.decision == "contextual" for layer in self.layers)
        how = f"{contextual} contextual, " if contextual else ""
        return (
            f"{self.model.get('name', 'model')}: {sparse} of {len(self.layers)} layers sparse, {how}"
            f"{self.model.get('programs', 0)} programs"
        )

    def _totals(self) -> tuple[str, ...]:
        dense, now = (sum(_each(self.layers, key)) for key in ("bytes_dense", "bytes"))
        share = f"{now / dense:.3f} of dense" if dense else ""
        return ("all layers", "", "", "", _megabytes(dense), _megabytes(now), "", share)


_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("layer", "left"),
    ("N×K", "right"),
    ("dtype", "left"),
    ("runs", "left"),
    ("MB dense", "right"),
    ("MB now", "right"),
    ("rel. err", "right"),
    ("reason", "left"),
)


def _layer(data: Mapping[str, Any]) -> LayerReport:
    lost = data["format_err"]
    ranges = tuple(Range(**found) for found in data["ranges"])
    error = None if lost is None else FormatError(**lost)
    return LayerReport(**{**data, "ranges": ranges, "format_err": error})


def _each(layers: Iterable[LayerReport], key: str) -> Iterable[int]:
    return (getattr(layer, key) for layer in layers)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name,
        f"{layer.N}×{layer.K}",
        layer.dtype,
        layer.decision,
        _megabytes(layer.bytes_dense),
        _megabytes(layer.bytes),
        f"{layer.rel_err:.3f}",
        layer.reason,
    )
