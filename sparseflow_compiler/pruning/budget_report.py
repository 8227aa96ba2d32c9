"""The report of pruning within a budget: what each layer could be, what it is, and the frontier."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sparseflow.pruning.candidates import Option
from sparseflow.pruning.prune_options import DENSE
from sparseflow.pruning.prune_report import PruneReport
from sparseflow.reports.frontier_page import frontier_page
from sparseflow.reports.page import Page, megabytes
from sparseflow.reports.page_files import write
from sparseflow.support.text_table import Column, text_table


@dataclass(frozen=True)
class LayerChoice:
    """One candidate layer.

    Attributes:
        name: the layer's name in the model.
        pattern: what the budget gives it; "dense" if it isn't pruned.
        options: what it could have had.
    """

    name: str
    pattern: str
    options: tuple[Option, ...]

    @property
    def worst(self) -> float:
        """The greatest loss among its options."""
        return max(option.loss for option in self.options)

    def figures(self) -> Iterator[str]:
        """Yield the loss and the saving of each option but dense."""
        for option in self.options:
            if option.pattern != DENSE:
                yield from (f"{option.loss:.5f}", f"{option.saved:.4g}")


@dataclass(frozen=True)
class FrontierPoint:
    """A choice of patterns that no other is expected to beat in both loss and saving.

    Attributes:
        loss: measured, of a model with these patterns.
        saved: in the report's `saved_unit`.
        nbytes: of the candidates' weights.
        layers: how many have each pattern.
    """

    loss: float
    saved: float
    nbytes: int
    layers: Mapping[str, int]


@dataclass(frozen=True)
class BudgetReport(PruneReport):
    """The report of `sparseflow.prune` with a budget.

    Attributes:
        choices: every layer that could be pruned, with its options.
        max_loss: the budget of loss, or None.
        max_bytes: the budget of bytes of the weights of `choices`, or None.
        recovery: by what later recovery is expected to divide the loss.
        loss: of the resulting model, measured before any recovery.
        loss_all: of the model with all of `choices` in one pattern, by pattern.
        unit: of losses.
        saved: what the choice saves, of `saved_most`.
        saved_most: what each layer's fastest option saves, together.
        saved_unit: of savings; "µs" in total over the calls of `ms` rows, or "bytes".
        nbytes: of the weights of `choices`, packed as chosen.
        bytes_dense: of the same, dense.
        ms: the numbers of rows M at which savings were measured.
        frontier: from the model that saves least to the one that saves most.
    """

    choices: tuple[LayerChoice, ...] = ()
    max_loss: float | None = None
    max_bytes: int | None = None
    recovery: float = 1.0
    loss: float = 0.0
    loss_all: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""
    saved: float = 0.0
    saved_most: float = 0.0
    saved_unit: str = ""
    nbytes: int = 0
    bytes_dense: int = 0
    ms: tuple[int, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()

    @property
    def expected_loss(self) -> float:
        """The loss after the recovery that was announced; without one it is `loss`."""
        return self.loss / self.recovery

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        asked = ("max_loss", "max_bytes", "recovery", "loss", "expected_loss", "unit")
        got = ("saved", "saved_most", "saved_unit", "nbytes", "bytes_dense")
        budget: dict[str, object] = {name: getattr(self, name) for name in (*asked, *got)}
        budget["loss_all"] = dict(self.loss_all)
        budget["ms"] = list(self.ms)
        budget["choices"] = [asdict(choice) for choice in self.choices]
        budget["frontier"] = [asdict(point) for point in self.frontier]
        return super().to_dict() | {"budget": budget}

    def table(self, width: int = 130) -> str:
        """Return the report as text: the layers, the candidates, most harmful first, and the frontier."""
        return "\n".join((super().table(width), self._candidates(width), self._frontier(width)))

    @property
    def _saved_in(self) -> str:
        at = f" at M = {', '.join(map(str, self.ms))}" if self.saved_unit == "µs" else ""
        return f"{self.saved_unit} saved{at}"

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the frontier and all layers, self-contained.

        Raises:
            ArgumentError: the file can't be written.
        """
        write(self._page, Path(path), "html")

    def to_png(self, path: str | os.PathLike[str], *, dark: bool = False) -> None:
        """Write the same as a picture, without most layers.

        Args:
            path: the file.
            dark: whether to draw on dark ground.

        Raises:
            MissingDependencyError: matplotlib is missing.
            ArgumentError: the file can't be written.
        """
        write(self._page, Path(path), "png", dark=dark)

    @property
    def _page(self) -> Page:
        return frontier_page("Pruning within a budget", self.to_dict())

    def _candidates(self, width: int) -> str:
        columns: list[Column] = [("layer", "left"), ("chosen", "left")]
        for pattern in self.loss_all:
            columns += [(f"{pattern}: loss", "right"), ("saved", "right")]
        note = (
            f"loss: {self.unit}, of the model with this layer alone in the pattern; saved: {self._saved_in}"
        )
        rows = [
            (choice.name, choice.pattern, *choice.figures())
            for choice in sorted(self.choices, key=lambda choice: -choice.worst)
        ]
        return text_table(self._title(), columns, rows, (note,), width)

    def _title(self) -> str:
        title = f"loss {self.loss:.4f}"
        if self.max_loss is not None:
            title += f" of {self.max_loss * self.recovery:.4f}"
        title += f" {self.unit}"
        if self.recovery != 1:
            title += f", {self.expected_loss:.4f} expected after recovery"
        if self.max_bytes is not None:
            title += f"; {megabytes(self.nbytes)} of {megabytes(self.max_bytes)}"
        alls = ", ".join(f"{pattern} {loss:.4f}" for pattern, loss in self.loss_all.items())
        return f"{title}; all in one pattern: {alls}"

    def _frontier(self, width: int) -> str:
        columns: tuple[Column, ...] = (
            (f"loss, {self.unit}", "right"),
            (self._saved_in, "right"),
            ("weights", "right"),
            ("layers", "left"),
        )
        rows = [
            (
                f"{point.loss:.4f}",
                f"{point.saved:.4g}",
                megabytes(point.nbytes),
                ", ".join(f"{count} {pattern}" for pattern, count in point.layers.items()),
            )
            for point in self.frontier
        ]
        return text_table("frontier of loss and saving", columns, rows, (), width)
