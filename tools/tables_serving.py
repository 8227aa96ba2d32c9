"""The tables of what vLLM serves, dense and sparse."""

from __future__ import annotations

from _table import Rows, markdown, times

NAMES = ("vllm_h200", "vllm_columns_h200", "serve_h200", "serve_fp8_h200", "vllm_load_h200")
"""Files of bench_vllm.py, bench_serve.py and bench_vllm_load.py on GPUs of one kind."""

_OWN_GPUS = "\nEach {} had a GPU of its own, of the same kind; only one worked at a time.\n"


def vllm(rows: Rows) -> str:
    """A line for each phase and batch: the engines' milliseconds, and ours over dense. Then their memory."""
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
    apart = _OWN_GPUS.format("engine") if any(row.get("own_gpus") for row in rows) else ""
    return "\n" + markdown(columns.split(", "), body) + apart + _memory(rows) + "\n"


def _memory(rows: Rows) -> str:
    """A line for each of our engines: what its weights take, and the tokens that fit beside them."""
    body = []
    for row in {row["format"]: row for row in rows if row.get("weight_bytes")}.values():
        weights, dense = (row[name] / 2**30 for name in ("weight_bytes", "dense_weight_bytes"))
        tokens, before = row["kv_tokens"], row["dense_kv_tokens"]
        cells = [f"{dense:.2f} → {weights:.2f} GiB", times(weights / dense)]
        body.append([row["format"], *cells, f"{before} → {tokens}", times(tokens / before)])
    columns = "ours, memory of weights, of dense bf16, tokens in the KV cache, of dense bf16"
    return "\n" + markdown(columns.split(", "), body) if body else ""


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ms"


def _over(dense: float | None, ours: float) -> str:
    return "" if dense is None else times(dense / ours)


def serve(rows: Rows) -> str:
    """A line for each rate: tokens a second and waiting, dense and sparse."""
    body = []
    for rate in dict.fromkeys(row["rate"] for row in rows):
        sides = {row["side"]: row for row in rows if row["rate"] == rate}
        if len(sides) < 2:  # a deadline came between them
            continue
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
    apart = _OWN_GPUS.format("server") if any(row.get("own_gpus") for row in rows) else ""
    if not apart and any(row.get("at_once") for row in rows):
        apart = "\nBoth servers were on one GPU; only one worked at a time.\n"
    return "\n" + markdown(columns.split(", "), body) + apart + "\n"


_WAITING = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms")


def load(rows: Rows) -> str:
    """A line for each way of loading: seconds, bytes of files and of memory."""
    body = []
    for row in rows:
        for title, prefix in (
            ("dense tensors, by vLLM", "dense_"),
            ("dense tensors, packed while they are loaded", "packing_"),
            ("packed folder", ""),
        ):
            seconds, weights = row[f"{prefix}load_s"], row[f"{prefix}weight_bytes"]
            cells = [f"{seconds:.1f} s", times(seconds / row["dense_load_s"])]
            cells += [f"{row[f'{prefix}bytes'] / 1e9:.2f} GB", f"{weights / 1e9:.2f} GB"]
            body.append([str(row["layers"]), title, *cells, times(weights / row["dense_weight_bytes"])])
    columns = "layers, from, loaded in, of dense, files, memory of weights, of dense"
    return "\n" + markdown(columns.split(", "), body) + "\n"
