"""The result of a profile, as a table, dictionary or chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sparseflow.profiling.kernel_kinds import KINDS, Kind
from sparseflow.profiling.kernels import Kernel
from sparseflow.support.text_table import Column, text_table


@dataclass(frozen=True)
class Side:
    """One profiled way of running a model.

    Attributes:
        title: its name.
        seconds: median time of one call, without profiler.
        kernels: the kernels of one call, the longest first.
    """

    title: str
    seconds: float
    kernels: tuple[Kernel, ...]

    @property
    def us(self) -> float:
        """Microseconds in kernels in one call."""
        return sum(kernel.us for kernel in self.kernels)

    @property
    def us_by_kind(self) -> dict[Kind, float]:
        """Microseconds in kernels of each kind."""
        return {kind: sum(k.us for k in self.kernels if k.kind == kind) for kind in KINDS}

    @property
    def shares(self) -> dict[Kind, float]:
        """Percent of the kernel time by kind; they sum to 100."""
        return {kind: 100 * us / self.us for kind, us in self.us_by_kind.items()}


@dataclass(frozen=True)
class Profile:
    """A model before and after compiling.

    Attributes:
        dense: the model as it was.
        compiled: the same by `sparseflow.compile`.
        meta: model, device, dtype and the like.
    """

    dense: Side
    compiled: Side
    meta: Mapping[str, object] = field(default_factory=dict)

    @property
    def gemm_speedup(self) -> float:
        """The speed-up of the matrix products; NaN if there are none."""
        before, after = self.dense.us_by_kind["GEMM"], self.compiled.us_by_kind["GEMM"]
        return before / after if after else math.nan

    @property
    def ceiling(self) -> float:
        """The possible speed-up of all kernels if nothing else changes, by Amdahl's law: 1 / (1 − p + p/s).

        The actual speed-up can exceed it if the products of the compiled graph do other work too.
        """
        share = self.dense.shares["GEMM"] / 100
        return 1 / (1 - share + share / self.gemm_speedup) if share else 1.0

    @property
    def reached(self) -> float:
        """The speed-up of a call."""
        return self.dense.seconds / self.compiled.seconds

    @property
    def reached_in_kernels(self) -> float:
        """The speed-up of its kernel time."""
        return self.dense.us / self.compiled.us

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON; missing figures are None."""
        speedup = self.gemm_speedup
        return {
            "meta": dict(self.meta),
            "gemm_share": self.dense.shares["GEMM"],
            "gemm_speedup": None if math.isnan(speedup) else speedup,
            "ceiling": None if math.isnan(self.ceiling) else self.ceiling,
            "reached": self.reached,
            "reached_in_kernels": self.reached_in_kernels,
            **{name: _side(side) for name, side in (("dense", self.dense), ("compiled", self.compiled))},
        }

    def table(self, width: int = 100) -> str:
        """Return the figures as text."""
        headings = (f"{self.dense.title}, ms", "%", f"{self.compiled.title}, ms", "%", "speed-up")
        columns: list[Column] = [("kernel time", "left"), *((heading, "right") for heading in headings)]
        before, after = self.dense.seconds, self.compiled.seconds
        rows = [
            *((kind, *self._cells(kind)) for kind in KINDS),
            ("all kernels", *self._totals()),
            ("one call", f"{before * 1e3:.3f}", "", f"{after * 1e3:.3f}", "", _times(self.reached)),
        ]
        note = (
            f"GEMMs are {self.dense.shares['GEMM']:.1f} % of the kernel time and became "
            f"{_times(self.gemm_speedup)} as fast: ceiling {_times(self.ceiling)}; "
            f"reached {_times(self.reached)} by the clock, {_times(self.reached_in_kernels)} in kernels."
        )
        return text_table(self.title, columns, rows, ("", note), width)

    @property
    def title(self) -> str:
        """The values of `meta`, on one line."""
        return ", ".join(
            f"{value}" if key == "model" else f"{key} {value}" for key, value in self.meta.items()
        )

    def chart(self, path: Path | str, *, dark: bool = False) -> None:
        """Draw both sides' kernel time by kind.

        Args:
            path: the file; its suffix, such as ``.png`` or ``.svg``, chooses the format.
            dark: whether to draw on dark ground; an .svg follows its reader's setting instead.

        Raises:
            MissingDependencyError: matplotlib is missing.
            ArgumentError: matplotlib doesn't know the format, or the file can't be written.
        """
        from sparseflow.profiling.chart import draw

        figures = f"GEMM {self.gemm_speedup:.2f}×, ceiling {self.ceiling:.2f}×, reached {self.reached:.2f}×"
        draw((self.compiled, self.dense), f"{self.title}\n{figures}", Path(path), dark=dark)

    def _cells(self, kind: Kind) -> tuple[str, ...]:
        before, after = self.dense.us_by_kind[kind], self.compiled.us_by_kind[kind]
        return (
            f"{before / 1e3:.3f}",
            f"{self.dense.shares[kind]:.1f}",
            f"{after / 1e3:.3f}",
            f"{self.compiled.shares[kind]:.1f}",
            _times(before / after) if after else "",
        )

    def _totals(self) -> tuple[str, ...]:
        ratio = _times(self.reached_in_kernels)
        return (f"{self.dense.us / 1e3:.3f}", "100.0", f"{self.compiled.us / 1e3:.3f}", "100.0", ratio)


def _side(side: Side) -> dict[str, object]:
    return {
        "title": side.title,
        "seconds": side.seconds,
        "us": side.us_by_kind,
        "shares": side.shares,
        "kernels": [asdict(kernel) for kernel in side.kernels],
    }


def _times(ratio: float) -> str:
    return "–" if math.isnan(ratio) else f"{ratio:.2f}×"
