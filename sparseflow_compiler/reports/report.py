"""The report of a compilation: every layer that multiplies by a weight, its decision and the reason."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sparseflow.errors import ArgumentError
from sparseflow.support.documents import Document

Decision = Literal["sparse", "dense", "contextual"]


@dataclass(frozen=True)
class Range:
    """The rows from `m_min` to `m_max`, which `backend` runs `speedup` times as fast as dense.

    `m_max` is None for a range without end. A backend with algorithms names the one that runs:
    ``cusparselt@7``.
    """

    m_min: int
    m_max: int | None
    backend: str
    speedup: float | None


@dataclass(frozen=True)
class FormatError:
    """The error that a lossy format adds to a layer beyond pruning.

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
        decision: how it runs.
        reason: why, in a sentence.
        ranges: which backend runs which M, for a sparse layer.
        measured: each M that was measured, with the speed-up over dense of what runs there; of a merged layer
            that of its product. Empty if nothing was measured.
        bytes_dense: bytes of its weight before.
        bytes: bytes of its weight now; with an MLP's up layer, those of its predictor.
        rel_err: ‖W − pruned W‖ / ‖W‖ in the Frobenius norm; 0 if the weight is unchanged.
        format: how its weight is stored; empty if it is dense.
        format_err: the error of a lossy format; ``None`` if the format stores the weight as it is.
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
    measured: tuple[tuple[int, float], ...] = ()

    def table(self) -> str:
        """Return the layer as text: what runs for which M, the speed-ups, and the reason."""
        from sparseflow.reports.text import layer_table

        return layer_table(self)


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
        """Rebuild a report from the result of `to_dict`.

        Raises:
            KeyError: an entry is missing.
            TypeError: an entry has a wrong type.
        """
        return cls([_layer(layer) for layer in data["layers"]], dict(data["model"]))

    def to_html(self, path: str | os.PathLike[str], *others: Reported) -> None:
        """Write the report as one self-contained HTML page.

        Args:
            path: the file.
            others: profiles, evaluations and other reports to show on the same page.

        Raises:
            ArgumentError: the file can't be written.
        """
        self._write("html", path, others)

    def to_markdown(self, path: str | os.PathLike[str], *others: Reported) -> None:
        """Write the report as Markdown; see `to_html`."""
        self._write("md", path, others)

    def to_png(self, path: str | os.PathLike[str], *others: Reported, dark: bool = False) -> None:
        """Write the report's charts and the first rows of its tables as a PNG; see `to_html`.

        Args:
            path: the file.
            others: see `to_html`.
            dark: whether to draw on dark ground.

        Raises:
            MissingDependencyError: matplotlib is missing.
            ArgumentError: the file can't be written.
        """
        self._write("png", path, others, dark=dark)

    def _repr_html_(self) -> str:
        """Return the report for a notebook: its figures, and a line for each group of layers."""
        from sparseflow.reports import notebook_html

        return notebook_html(self)

    def _write(
        self, form: str, path: str | os.PathLike[str], others: Iterable[Reported], *, dark: bool = False
    ) -> None:
        from sparseflow.reports import Source, page_of, write

        whole = [Source(type(part).__name__, part.to_dict()) for part in (self, *others)]
        write(page_of(whole), Path(path), form, dark=dark)

    def layer(self, name: str) -> LayerReport:
        """Return the report of one layer; its `table` shows what runs for which M.

        Args:
            name: a name as in `layers`, such as ``"model.layers.0.mlp.up_proj"``.

        Raises:
            ArgumentError: there is no such layer; the message lists similar names.
        """
        found = {layer.name: layer for layer in self.layers}
        if name not in found:
            near = difflib.get_close_matches(name, found, n=3, cutoff=0.4) or list(found)[:3]
            rule = f"the report has no layer {name!r}; it has {', '.join(near)}, …"
            raise ArgumentError("report.layer", rule, "take a name of report.layers")
        return found[name]

    def table(self, width: int = 100, *, expand: bool = False) -> str:
        """Return the report as text: totals, then one line for each group of layers that are alike.

        Args:
            width: the width in characters.
            expand: whether to write one line for each layer, with its whole reason.
        """
        from sparseflow.reports.text import report_table

        return report_table(self, width, expand=expand)

    def __str__(self) -> str:
        return self.table()


def _layer(data: Document) -> LayerReport:
    lost = data["format_err"]
    ranges = tuple(Range(**found) for found in data["ranges"])
    error = None if lost is None else FormatError(**lost)
    measured = tuple((int(m), float(speedup)) for m, speedup in data.get("measured", ()))
    return LayerReport(**{**data, "ranges": ranges, "format_err": error, "measured": measured})
