"""The page about a profile."""

from __future__ import annotations

from sparseflow.reports.page import Column, Facts, Page, Pie, Pies, Table, one_line
from sparseflow.support.documents import Document

_KERNELS = 12
_SIDES = ("dense", "compiled")


def profile_page(data: Document) -> Page:
    """Make the page of `Profile.to_dict()`."""
    pies = tuple(
        Pie(
            f"{data[side]['title']}, {sum(data[side]['us'].values()) / 1e3:.3f} ms",
            tuple(data[side]["shares"].items()),
        )
        for side in _SIDES
    )
    facts = (
        ("a call", _times(data["reached"]), "as fast, by the clock"),
        ("ceiling", _times(data["ceiling"]), "if nothing but the matrix products changes (Amdahl)"),
        (
            "matrix products",
            _times(data["gemm_speedup"]),
            f"as fast; {data['gemm_share']:.0f} % of kernel time",
        ),
    )
    return Page(
        f"Profile of {data['meta'].get('model', 'a model')}",
        (one_line(data["meta"]),),
        (
            Facts("", facts),
            Pies("Kernel time by kind", pies, "Percent of the time in kernels of one call."),
            _kernels(data),
        ),
    )


def _kernels(data: Document) -> Table:
    rows = tuple(
        (data[side]["title"], str(kernel["name"]), str(kernel["kind"]), f"{kernel['us']:.1f}")
        for side in _SIDES
        for kernel in data[side]["kernels"][:_KERNELS]
    )
    columns = (Column("side"), Column("kernel"), Column("kind"), Column("µs a call", True))
    return Table("Longest kernels", columns, rows)


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"
