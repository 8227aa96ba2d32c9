"""The report of a compilation: every layer that multiplies by a weight, its decision and the reason."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sparseflow.support.documents import Document

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
class Fp8Error:
    """The error that quantising adds to a layer beyond pruning.

    Attributes:
        weight: ‖W − W8‖ / ‖W‖ in the Frobenius norm, W pruned and W8 the same in fp8 by the rows' scales.
        output: ‖y − y8‖ / ‖y‖, y = x · Wᵀ + bias in float32 and y8 the layer in fp8, over some rows of x of
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
        decision: how it runs.
        reason: why, in a sentence.
        ranges: which backend runs which M, for a sparse layer.
        bytes_dense: bytes of its weight before.
        bytes: bytes of its weight now; with an MLP's up layer, those of its predictor.
        rel_err: ‖W − pruned W‖ / ‖W‖ in the Frobenius norm; 0 if the weight is unchanged.
        fp8: the error of quantising; ``None`` for a layer that isn't quantised.
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
    fp8: Fp8Error | None = None


class Reported(Protocol):
    """Anything that a page can show: a profile, an evaluation, a tuning's result."""

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        ...


@dataclass
class Report:
    """The report of a compilation, for each layer and the whole model.

    Attributes:
        layers: every parameter that a product of a captured program multiplies by, once.
        model: figures of the whole: programs captured and why each, seconds for each stage, bytes.
    """

    layers: list[LayerReport] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        return {"layers": [asdict(layer) for layer in self.layers], "model": dict(self.model)}

    @classmethod
    def from_dict(cls, data: Document) -> Report:
        """Rebuild a report from `to_dict()`.

        Raises:
            KeyError, TypeError: the data is malformed.
        """
        return cls([_layer(layer) for layer in data["layers"]], dict(data["model"]))

    def to_html(self, path: str | os.PathLike[str], *others: Reported) -> None:
        """Write it as one self-contained HTML page.

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
        """Write its charts and the beginnings of its tables as a PNG; see `to_html`.

        Raises:
            ArgumentError: matplotlib is missing, or the file can't be written.
        """
        self._write("png", path, others)

    def _write(self, form: str, path: str | os.PathLike[str], others: Iterable[Reported]) -> None:
        from sparseflow.reports import Source, page_of, write

        whole = [Source(type(part).__name__, part.to_dict()) for part in (self, *others)]
        write(page_of(whole), Path(path), form)

    def table(self, width: int = 150) -> str:
        """Return the report as text, one line a layer."""
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


def _layer(data: Document) -> LayerReport:
    fp8 = data["fp8"]
    ranges = tuple(Range(**found) for found in data["ranges"])
    return LayerReport(**{**data, "ranges": ranges, "fp8": None if fp8 is None else Fp8Error(**fp8)})


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
