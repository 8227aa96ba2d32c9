"""The tables of whole models."""

from __future__ import annotations

from _table import Rows, grouped, markdown, times


def model_h200(rows: Rows) -> str:
    """Whole models: dense through torch.compile beside ours, then all layers, then generated tokens."""
    full = [row for row in rows if "peak_of_dense" in row]
    generated = [row for row in rows if "agreement" in row]
    beside = [row for row in rows if row.get("dense_ms")]
    return models_beside_dense(beside) + "\n".join([_full_models(full), _generated(generated)]) + "\n"


def models_beside_dense(rows: Rows) -> str:
    """Rows of one model and phase together, however many runs measured them."""
    body = [
        [
            row["model"],
            row["phase"],
            str(row["batch"]),
            str(row.get("seq", "")),
            *(f"{row[side]:.3f} ms" for side in ("dense_ms", "ours_ms")),
            times(row["speedup"]),
            times(row.get("ceiling_speedup")),
            f"≥ {row['target']}×" if row.get("target") else "",
            str(row.get("sparse_layers", "")),
        ]
        for _, kind in grouped(rows, lambda row: (row["model"], row["phase"]))
        for row in sorted(kind, key=lambda row: row["batch"])
    ]
    headings = [
        "model", "phase", "batch", "tokens", "dense", "ours", "speed-up", "ceiling", "asked", "sparse layers"
    ]  # fmt: skip
    return "\n" + markdown(headings, body) + "\n"


def fp8_ends(rows: Rows) -> str:
    """Microseconds of products in fp8 by what their ends do."""
    sides = list(dict.fromkeys(name for row in rows for name in row if name.endswith("_us")))
    body = [
        [
            f"{row['N']}×{row['K']}",
            f"{row['M']:,}",
            *(f"{row[name]:.1f}" if name in row else "" for name in sides),
        ]
        for row in rows
    ]
    names = [name.removesuffix("_us").replace("_", " ") for name in sides]
    return "\n" + markdown(["N×K", "M", *names], body) + "\n"


def _full_models(rows: Rows) -> str:
    body = [
        [
            row["model"],
            row["phase"],
            f"{row['dense_bytes'] / 1e9:.1f} GB",
            f"{row['first_output_seconds']:.1f} s",
            f"{row['peak_of_dense']:.2f}",
            f"{row['linears_of_dense']:.3f}",
            f"{row['now_bytes'] / 1e9:.1f} GB",
            f"{row['ours_ms']:.2f} ms",
            f"{row['tokens_per_second']:,.0f}",
        ]
        for row in rows
    ]
    headings = [
        "all layers, without inductor",
        "phase",
        "dense weights",
        "compile to first output",
        "peak ÷ dense",
        "linears ÷ dense",
        "memory after",
        "a call",
        "tokens/s",
    ]
    return markdown(headings, body)


def _generated(rows: Rows) -> str:
    body = [
        [
            row["phase"],
            str(row["batch"]),
            str(row["new_tokens"]),
            *(f"{100 * row[side]:.1f} %" for side in ("agreement", "agreement_torch_compile")),
        ]
        for row in rows
    ]
    headings = ["in bfloat16", "batch", "new tokens", "next token as eager", "torch.compile's"]
    return markdown(headings, body)
