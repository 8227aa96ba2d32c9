"""Pages of measurements: rows of benchmarks, and tables of tuned or calibrated points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from sparseflow.reports.page import Cell, Column, Facts, HeatMap, Page, Piece, Table, figure, one_line
from sparseflow.support.documents import Document

Row = Document

_TIMES = ("dense_us", "ours_us")
_EQUAL = 0.98
"""A speed-up that counts as equal: repeated measurements differ by as much."""

_PLACE = (
    "model",
    "phase",
    "side",
    "batch",
    "seq",
    "context",
    "prompt",
    "N",
    "K",
    "M",
    "dtype",
    "epilogue",
    "mode",
)
"""Fields that say what a row measured, rather than what came out."""
_WHAT = ("dtype", "epilogue", "mode")
"""Fields that may differ between rows of the same shape and M; each combination gets a heat map."""


def rows_page(title: str, data: Document) -> Page:
    """Make the page of a result file: ``{"meta": {…}, "rows": […]}``."""
    meta, rows = data.get("meta") or data.get("about") or {}, data["rows"]
    pieces: list[Piece] = [*headline(rows), *heat_maps(rows), *rows_tables(rows)]
    return Page(title, _about(meta), tuple(pieces))


def points_page(title: str, data: Document, points: Iterable[Row]) -> Page:
    """Make the page of tuned or calibrated points."""
    rows = [_timed(point) for point in points]
    pieces: list[Piece] = [*headline(rows), *heat_maps(rows), rows_table("Points", rows)]
    for part in ("skipped", "remaining"):
        if entries := data.get(part):
            pieces.append(rows_table(part, [e if isinstance(e, dict) else {"point": e} for e in entries]))
    return Page(title, _about(data.get("machine") or {}), tuple(pieces))


def headline(rows: Sequence[Row]) -> list[Piece]:
    """Return what the rows come to: the median speed-up, the best, and how many are no slower than dense."""
    gains = [(gain, row) for row in rows if (gain := _speedup(row)) is not None]
    if not gains:
        return []
    speeds = [gain for gain, _ in gains]
    best, where = max(gains, key=lambda entry: entry[0])
    kept = sum(speed >= _EQUAL for speed in speeds)
    items = (
        (
            "as fast as dense, median",
            f"{statistics.median(speeds):.2f}×",
            f"of {len(speeds)} measurements",
        ),
        ("as fast at best", f"{best:.2f}×", _where(where, rows)),
        ("no slower than dense", f"{kept} of {len(speeds)}", f"within 2 %; the least is {min(speeds):.2f}×"),
    )
    return [Facts("", items)]


def _speedup(row: Row) -> float | None:
    """Return a row's speed-up over dense: the one that it states, else that of its times or rates."""
    if (stated := _positive(row.get("speedup"))) is not None:
        return stated
    pairs = (("dense_us", "ours_us"), ("dense_ms", "ours_ms"), ("tokens_s", "dense_tokens_s"))
    for slow, fast in pairs:
        over, under = _positive(row.get(slow)), _positive(row.get(fast))
        if over is not None and under is not None:
            return over / under
    return None


def _positive(value: object) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 < value < math.inf else None  # type: ignore[arg-type, operator]


def _where(row: Row, rows: Sequence[Row]) -> str:
    """Return in which of the rows something was measured, by the names that tell them apart."""
    told = [name for name in _PLACE if name in row and len({str(one.get(name)) for one in rows}) > 1]
    shape = f"{row['N']}×{row['K']}" if {"N", "K"} <= set(told) else ""
    others = [f"{name} {figure(row[name])}" for name in told if not (shape and name in ("N", "K"))]
    return ", ".join(filter(None, (shape, *others)))


def heat_maps(rows: Sequence[Row]) -> list[Piece]:
    """Return a heat map of N×K by M for each dtype and the like, if the rows have such figures."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if all(isinstance(row.get(name), (int, float)) for name in ("N", "K", "M", *_TIMES)):
            groups.setdefault(
                tuple(str(row[name]) for name in _WHAT if row.get(name) not in (None, "none")), []
            ).append(row)
    return [_heat_map(", ".join(what), group) for what, group in groups.items()]


def _heat_map(what: str, rows: Sequence[Row]) -> HeatMap:
    cells = {
        (f"{r['N']}×{r['K']}", r["M"]): Cell(r["dense_us"] / r["ours_us"], str(r.get("backend", "")))
        for r in rows
    }
    shapes = tuple(dict.fromkeys(shape for shape, _ in cells))
    ms = sorted({m for _, m in cells})
    return HeatMap(
        "Speed-up over dense" + (f", {what}" if what else ""),
        shapes,
        tuple(map(str, ms)),
        tuple(tuple(cells.get((shape, m), Cell(None)) for m in ms) for shape in shapes),
        "N×K, and M, the rows of x, along the top.",
    )


def rows_tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables of all rows: products and the rest, which share few columns, stand apart."""
    products = [row for row in rows if {"N", "K", "M"} <= row.keys()]
    others = [row for row in rows if not {"N", "K", "M"} <= row.keys()]
    if not (products and others):
        return [rows_table("Rows", rows)]
    return [rows_table("Rows", others), rows_table("Products", products)]


def rows_table(title: str, rows: Sequence[Row]) -> Table:
    """Return all figures of the rows; those equal in all rows are stated once, below."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    plain = [
        name for name in names if not any(isinstance(row.get(name), (dict, list, tuple)) for row in rows)
    ]
    same = {name: rows[0].get(name) for name in plain if len({row.get(name) for row in rows}) == 1}
    shown = [name for name in plain if len(rows) == 1 or name not in same]
    columns = tuple(
        Column(name, all(type(row.get(name)) in (int, float, type(None)) for row in rows)) for name in shown
    )
    cells = tuple(tuple(figure(row.get(name)) for name in shown) for row in rows)
    held = {name: value for name, value in same.items() if value not in (None, "")} if len(rows) > 1 else {}
    return Table(title, columns, cells, f"In every row: {one_line(held)}." if held else "")


def _timed(point: Row) -> Row:
    """Return a point as a benchmark row: the fastest sparse candidate beside dense."""
    row = {"dtype": point["dtype"], "N": point["n"], "K": point["k"], "M": point["m"]}
    row["dense_us"] = point["dense_us"]
    if "sparse_us" in point:
        way, us = min(point["sparse_us"].items(), key=lambda entry: entry[1])
        return row | {"ours_us": us, "unpacked_us": point["unpacked_us"], "backend": way}
    best = min(point["candidates"], key=lambda entry: entry["us"], default=None)
    if best is None:
        return row | {"failed": len(point["failed"])}
    how = f"{best['backend']}@{best['algorithm']}" + (f"/{best['split_k']}" if best["split_k"] else "")
    return row | {
        "ours_us": best["us"],
        "speedup": point["dense_us"] / best["us"],
        "backend": how,
        "rel_err": best["rel_err"],
        "failed": len(point["failed"]),
    }


def _about(meta: Document) -> tuple[str, ...]:
    versions = meta.get("versions")
    lines = [one_line(meta), one_line(versions) if isinstance(versions, dict) else ""]
    if isinstance(meta.get("machine"), dict):
        lines.append(one_line(meta["machine"]))
    return tuple(line for line in lines if line)
