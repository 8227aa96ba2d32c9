"""The tables of what vLLM serves, dense and sparse."""

from __future__ import annotations

from _table import Rows, markdown, times

NAMES = ("vllm_h200", "serve_h200", "vllm_load_h200")
"""Files of bench_vllm.py, bench_serve.py and bench_vllm_load.py on one GPU."""


def vllm(rows: Rows) -> str:
    """A line for each phase and batch: the engines' milliseconds, and ours over dense."""
    body = [
        [
            row["format"],
            "a step of decoding" if row["phase"] == "decode" else "a prompt",
            f"{row['batch']}×{row['seq']}",
            *(_ms(row[side]) for side in ("dense_ms", "dense_same_ms", "ours_ms")),
            _over(row["dense_ms"], row["ours_ms"]),
            _over(row["dense_same_ms"], row["ours_ms"]),
        ]
        for row in rows
        if row["ours_ms"] is not None
    ]
    columns = "ours, time of, batch × tokens, dense bf16, dense fp8, ours, over bf16, over fp8"
    return "\n" + markdown(columns.split(", "), body) + "\n"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ms"


def _over(dense: float | None, ours: float) -> str:
    return "" if dense is None else times(dense / ours)


def serve(rows: Rows) -> str:
    """A line for each rate: tokens a second and waiting, dense and sparse."""
    body = []
    for rate in dict.fromkeys(row["rate"] for row in rows):
        sides = {row["side"]: row for row in rows if row["rate"] == rate}
        dense, sparse = sides["dense"], sides["sparse"]
        body.append(
            [
                "all at once" if rate is None else f"{rate:g}/s",
                f"{dense['tokens_s']:.0f} → {sparse['tokens_s']:.0f}",
                times(sparse["tokens_s"] / dense["tokens_s"]),
                *(f"{dense[name]:.1f} → {sparse[name]:.1f} ms" for name in _WAITING),
            ]
        )
    columns = "requests, tokens/s, gain, TTFT P50, TTFT P99, TPOT P50, TPOT P99"
    return "\n" + markdown(columns.split(", "), body) + "\n"


_WAITING = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")


def load(rows: Rows) -> str:
    """Seconds and bytes of both folders."""
    body = [
        [
            str(row["layers"]),
            *(f"{row[name]:.1f} s" for name in ("dense_load_s", "load_s")),
            times(row["load_s"] / row["dense_load_s"]),
            *(f"{row[name] / 1e9:.2f} GB" for name in ("dense_bytes", "bytes")),
        ]
        for row in rows
    ]
    columns = "layers, dense tensors, packed folder, of dense, dense on disk, packed on disk"
    return "\n" + markdown(columns.split(", "), body) + "\n"
