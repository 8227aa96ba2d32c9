"""The tables of layers that leave out inputs near zero."""

from __future__ import annotations

from _table import Rows, grouped, markdown

_RATES = ("0.00", "0.25", "0.40", "0.50")


def columns_gpu(rows: Rows) -> str:
    """Device time over the best dense product of the same bits, by the share of the inputs left out."""
    layers = [row for row in rows if "K" in row]
    rates = sorted({row["rate"] for row in layers})
    body = []
    for (n, k, dtype, m), cells in grouped(
        layers, lambda row: tuple(row[name] for name in ("N", "K", "dtype", "M"))
    ):
        by = {row["rate"]: row for row in cells}
        shown = [
            f"{by[rate]['columns_us']:.1f} µs, {by[rate]['speedup']:.2f}×" if rate in by else ""
            for rate in rates
        ]
        first = cells[0]
        dense = min(
            first[name] for name in ("dense_us", "dense_columns_us", "dense_same_us") if name in first
        )
        body.append([f"{n}×{k}", dtype, str(m), f"{dense:.1f} µs", *shown])
    headings = ["N×K", "weights", "M", "best dense", *(f"{rate:.0%} left out" for rate in rates)]
    return "\n" + markdown(headings, body) + "\n" + _decoding(rows)


def _decoding(rows: Rows) -> str:
    """A model's decoding with thresholds beside torch.compile's, and the time that its bytes need."""
    body = [
        [
            f"{row['model']}, {row['layers']} layers, context {row['context']}",
            f"{row['rate']:.0%}",
            f"{row['device_ms']:.2f} ms",
            f"{row['of_floor']:.2f}",
            f"{row['tokens_s']:.0f}",
            f"{row['torch_compile_tokens_s']:.0f}",
            f"{row['speedup']:.2f}×",
        ]
        for row in rows
        if "tokens_s" in row
    ]
    headings = "model, left out, a step, of the bytes' time, tokens/s, torch.compile's, speed-up"
    return markdown(headings.split(", "), body) + "\n" if body else ""


def columns_cpu(rows: Rows) -> str:
    """Speed over the best dense product, and of int8 weights over dense bfloat16."""
    layers = [row for row in rows if "K" in row]
    body = [
        [
            f"{row['N']}×{row['K']}",
            row["dtype"],
            f"{row['dense_us']:.0f} µs",
            *(f"{row[rate]:.2f}×" if rate in row else "" for rate in _RATES),
            f"{row['int8 0.40']:.2f}×" if "int8 0.40" in row else "",
        ]
        for row in layers
    ]
    headings = ["N×K", "dtype", "best dense", *(f"{float(rate):.0%}" for rate in _RATES), "int8, 40%"]
    return "\n" + markdown(headings, body) + "\n"


def wide(rows: Rows) -> str:
    """Whole fp8 layers, scaling included: ours over dense scaled by rows and over the best dense."""
    ms = sorted({row["m"] for row in rows})
    body = []
    for (n, k, gated), cells in grouped(rows, lambda row: (row["n"], row["k"], row["gated"])):
        by = {row["m"]: row for row in cells}
        layer = f"{n}×{k}" + (", with its gate" if gated else "")
        for name, column in (("dense by rows", "speedup"), ("the best dense", "speedup_over_best_dense")):
            body.append([layer, name, *(f"{by[m][column]:.2f}" if m in by else "" for m in ms)])
    headings = ["layer", "over", *(f"M={m}" for m in ms)]
    return "\n" + markdown(headings, body) + "\n"
