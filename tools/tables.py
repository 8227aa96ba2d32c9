"""What the documents' tables say of the rows of each result file (readme_tables.py)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

Rows = list[dict[str, Any]]


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def gemm_cpu(rows: Rows) -> str:
    """Speed-up of what dispatch runs over F.linear; one block a mode."""
    text = ""
    for mode in dict.fromkeys(row["mode"] for row in rows):
        chosen = [row for row in rows if row["mode"] == mode]
        cells = {(r["dtype"], r["N"], r["K"], r["M"]): r["speedup_dispatched"] for r in chosen}
        sizes = sorted({key[3] for key in cells})
        body = [
            [dtype, f"{n}×{k}", *(_times(cells.get((dtype, n, k, m))) for m in sizes)]
            for dtype, n, k in dict.fromkeys(key[:3] for key in cells)
        ]
        heading = f"{mode} ({chosen[0]['isa']}; torch {chosen[0]['torch_isa']})"
        text += f"\n{heading}:\n\n" + markdown(["dtype", "N×K", *(f"M={m}" for m in sizes)], body)
    return text + "\n"


_H200 = {
    "speedup": "memory mode fast (a dense copy is kept where dense wins)",
    "speedup_compressed": "memory mode compressed (no dense copy)",
    "torch_default_us": "torch's own 2:4, its default algorithm",
    "torch_searched_us": "torch's own 2:4, the algorithm its search finds",
}


def gemm_h200(rows: Rows) -> str:
    """Speed-up over dense on the device by shape and M: ours in both memory modes, then torch's own 2:4."""
    text = ""
    for dtype, (field, what) in itertools.product(dict.fromkeys(r["dtype"] for r in rows), _H200.items()):
        chosen = [row for row in rows if row["dtype"] == dtype and row.get(field)]
        if not chosen:
            continue
        cells = {
            (r["N"], r["K"], r["M"]): r[field] if field.startswith("speedup") else r["dense_us"] / r[field]
            for r in chosen
        }
        sizes = sorted({key[2] for key in cells})
        body = [
            [f"{n}×{k}", *(_times(cells.get((n, k, m))) for m in sizes)]
            for n, k in dict.fromkeys(key[:2] for key in cells)
        ]
        heading = what if dtype != "float8_e4m3fn" else "over dense fp8"
        text += f"\n{dtype}, {heading}:\n\n" + markdown(["N×K", *(f"M={m}" for m in sizes)], body)
    return text + "\n"


def skinny_h200(rows: Rows) -> str:
    """The own kernel: over dense, the share of a copy's bandwidth, over cuSPARSELt where that was tuned."""
    text = ""
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        chosen = [row for row in rows if row["dtype"] == dtype]
        cells = {(r["N"], r["K"], r["M"]): _skinny_cell(r) for r in chosen}
        sizes = sorted({key[2] for key in cells})
        body = [
            [f"{n}×{k}", *(cells.get((n, k, m), "") for m in sizes)]
            for n, k in dict.fromkeys(key[:2] for key in cells)
        ]
        heading = "over dense · share of a copy's bandwidth · over cuSPARSELt's best"
        text += f"\n{dtype}, {heading}:\n\n" + markdown(["N×K", *(f"M={m}" for m in sizes)], body)
    return text + "\n"


def _skinny_cell(row: dict[str, Any]) -> str:
    theirs = "" if row["over_cusparselt"] is None else f" · {_times(row['over_cusparselt'])}"
    missed = "" if row["met"] or row["dtype"] != "bfloat16" else f" (asked {row['target']})"
    return f"{_times(row['speedup'])} · {100 * row['share_of_copy']:.0f} %{theirs}{missed}"


def model_h200(rows: Rows) -> str:
    """Whole models: dense through torch.compile beside ours, then all layers, then generated tokens."""
    full = [row for row in rows if "peak_of_dense" in row]
    generated = [row for row in rows if "agreement" in row]
    beside = [row for row in rows if row.get("dense_ms")]
    tables = [_models_beside_dense(beside), _full_models(full), _generated(generated)]
    return "\n" + "\n".join(tables) + "\n"


def _models_beside_dense(rows: Rows) -> str:
    body = [
        [
            row["model"],
            row["phase"],
            str(row["batch"]),
            str(row.get("seq", "")),
            *(f"{row[side]:.3f} ms" for side in ("dense_ms", "ours_ms")),
            _times(row["speedup"]),
            _times(row.get("ceiling_speedup")),
            f"≥ {row['target']}×" if row.get("target") else "",
        ]
        for row in rows
    ]
    headings = ["model", "phase", "batch", "tokens", "dense", "ours", "speed-up", "ceiling", "asked"]
    return markdown(headings, body)


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


def quality_encoder(rows: Rows) -> str:
    """The pretrained encoder after each method, all linear layers of its blocks 2:4 or some blocks dense."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        method = row["method"] + (" + permutation" if row["permute"] else "")
        return method, row["reconstruct"] or "", str(row["dense_blocks"])

    body = [
        [*name, str(len(group)), _spread(group, "cosine", 3), _spread(group, "overlap", 3)]
        for name, group in _grouped(rows, key)
    ]
    body.sort(key=lambda cells: (cells[2], cells[4]))
    headings = ["method", "reconstruction", "dense blocks", "seeds", "cosine", "neighbours"]
    return "\n" + markdown(headings, body) + "\n"


def quality_encoder_finetune(rows: Rows) -> str:
    """The pretrained encoder, all linear layers 2:4, after distillation of so many steps."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return str(row["steps"]), f"{row['lr']:g}" if "lr" in row else ""

    body = [
        [*name, str(len(group)), _spread(group, "cosine", 3), _spread(group, "overlap", 3)]
        for name, group in _grouped(rows, key)
    ]
    body.sort(key=lambda cells: (int(cells[0]), cells[1]))
    return "\n" + markdown(["steps", "learning rate", "seeds", "cosine", "neighbours"], body) + "\n"


def quality_lm(rows: Rows) -> str:
    """The language model, dense, after each method and finetuned."""
    dense = {row["seed"]: row["perplexity"] for row in rows if row["method"] == "dense"}
    for row in rows:
        row["above"] = row["perplexity"] - dense[row["seed"]]
        row["closed"] = row.get(f"perplexity_gap_closed_of_{row['method']}")

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return row["method"], row.get("finetune", "")

    groups = sorted(_grouped(rows, key), key=lambda pair: -sum(r["above"] for r in pair[1]) / len(pair[1]))
    body = [
        [
            *name,
            str(len(group)),
            _spread(group, "perplexity", 2),
            _spread(group, "above", 2),
            _spread(group, "kl", 3),
            _spread(group, "top1_agreement", 3),
            "" if group[0]["closed"] is None else _spread(group, "closed", 2),
        ]
        for name, group in groups
    ]
    headings = [
        "method",
        "finetuned by",
        "runs",
        "perplexity",
        "above dense",
        "KL",
        "same token",
        "gap closed",
    ]
    return "\n" + markdown(headings, body) + "\n"


def quality_lm_train(rows: Rows) -> str:
    """The loss of the language model while it is trained, by seed."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    curves = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    body = [
        [f"{r['tokens'] / 1e6:.1f}: {r['train_nll']:.3f} · {r['heldout_nll']:.3f}" for r in at]
        for at in zip(*curves, strict=False)
    ]
    return "\n" + markdown([f"seed {seed}, tokens (10⁶): loss" for seed in seeds], body) + "\n"


def prune_speed(rows: Rows) -> str:
    """How long pruning takes: single layers, then models of Llama-3-8B's shape."""
    layers = [
        [
            f"{row['N']}×{row['K']}",
            row["method"],
            *(f"{row[part] / 1e3:.2f} s" for part in ("gather_ms", "prune_ms", "reconstruct_ms")),
        ]
        for row in rows
        if row["part"] == "layers"
    ]
    models = [
        [
            str(row["blocks"]),
            f"{row['parameters'] / 1e9:.1f}",
            row["method"],
            f"{row['seconds'] / 60:.1f} min",
        ]
        for row in rows
        if row["part"] == "model"
    ]
    headings = ["N×K", "method", "inputs' statistics", "pruning", "least squares"]
    text = "\n" + markdown(headings, layers) if layers else ""
    if models:
        text += "\n" + markdown(["decoder blocks", "parameters (10⁹)", "method", "sf.prune"], models)
    return text + "\n"


def contextual_cpu(rows: Rows) -> str:
    """Contextual MLPs of one token against dense ones, predicting and selecting included."""
    body = [
        [
            row["dtype"],
            f"{row['active']:.1%}",
            f"{row['speedup']:.2f}×" + _asked(row.get("target"), bool(row.get("met", True))),
            f"{row['kernel_of_ideal']:.2f}",
            f"{row['kernel_of_read']:.2f}",
            f"{row['faster_than_fp32']:.2f}×" if "faster_than_fp32" in row else "",
        ]
        for row in rows
    ]
    headings = ["weights", "active", "over dense", "kernel of ideal", "kernel of reading", "over fp32"]
    return "\n" + markdown(headings, body) + "\n"


def contextual_h200(rows: Rows) -> str:
    """The same on a GPU, in a CUDA graph; then weights in pinned host memory."""
    kernel = [
        [
            f"{row['hidden']}×{row['intermediate']}",
            row["dtype"],
            str(row["M"]),
            f"{row['active']:.0%}",
            f"{row['kernel_speedup']:.2f}×",
            f"{row['speedup']:.2f}×" + _asked(row["target"], row["met"]),
        ]
        for row in rows
        if row["what"] == "kernel"
    ]
    headings = [
        "hidden×intermediate",
        "dtype",
        "M",
        "active",
        "kernel over dense",
        "with predicting and selecting",
    ]
    return "\n" + markdown(headings, kernel) + "\n" + _tiered([r for r in rows if r["what"] == "tiered"])


def _tiered(rows: Rows) -> str:
    body = [
        [
            f"{row['hidden']}×{row['intermediate']}",
            f"{row['active']:.0%}",
            f"{row['churn']:.0%}",
            *(f"{row[side] / 1e3:.2f} ms" for side in _TIERED),
            f"{row['speedup']:.1f}×" + _asked(row["target"], row["met"]),
            f"{row['used_of_bound']:.3f}",
        ]
        for row in rows
    ]
    headings = [
        "weights in pinned memory",
        "active",
        "churn",
        *_TIERED.values(),
        "over streaming",
        "fast tier ÷ its bound",
    ]
    return markdown(headings, body) + "\n"


_TIERED = {
    "streaming_us": "streaming all",
    "in_place_us": "reading the active in place",
    "tiered_us": "cache",
    "tiered_prefetch_graph_us": "cache, prefetched, in a graph",
}


def _asked(target: float | None, met: bool) -> str:
    return "" if target is None or met else f" (asked {target:g})"


def _grouped(
    rows: Rows, key: Callable[[dict[str, Any]], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], Rows]]:
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())


def _spread(rows: Rows, field: str, digits: int) -> str:
    """The mean, and the least and the greatest value where there are several."""
    values = [row[field] for row in rows]
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def memory_h200(rows: Rows) -> str:
    """What the sparse layers' weights take on the GPU."""
    body = [[row["meter"], str(row["layers"]), f"{row['ratio']:.3f}", f"≤ {row['target']}"] for row in rows]
    return "\n" + markdown(["measured by", "sparse layers", "of their dense bytes", "target"], body) + "\n"


def host_h200(rows: Rows) -> str:
    """Host cost of a call, and of the first at an unseen M."""
    body = [
        [
            row["what"],
            row["dtype"],
            str(row.get("M", "")),
            f"{row['value']:.3g} {row['unit']}",
            f"≤ {row['target']}",
        ]
        for row in rows
    ]
    return "\n" + markdown(["what", "dtype", "M", "measured", "target"], body) + "\n"


def compile_cpu(rows: Rows) -> str:
    """One line a figure of the compile benchmark."""
    body = [[row["what"], f"{row['value']:.3g} {row['unit']}", row["target"]] for row in rows]
    return "\n" + markdown(["what", "measured", "target"], body) + "\n"


def load_cpu(rows: Rows) -> str:
    """Loading an artifact beside reading its bytes."""
    body = [
        [
            f"{row['bytes'] / 1e9:.2f} GB, {row['layers']} layers",
            row["cache"],
            *(f"{row[side]:.3f} s" for side in ("read", "load", "sha256")),
            _times(row["ratio"]),
            _times(row["ratio_cpu"]),
            f"≤ {row['target']}×",
        ]
        for row in rows
    ]
    headings = [
        "artifact",
        "page cache",
        "read",
        "load",
        "SHA-256 alone",
        "load over read",
        "in CPU time",
        "asked",
    ]
    return "\n" + markdown(headings, body) + "\n"


def fuzz(rows: Rows) -> str:
    """How many inputs a target was given, and what became of them."""
    body = []
    for (target,), runs in _grouped(rows, lambda row: (row["target"],)):
        ends = sum((Counter(row["outcomes"]) for row in runs), Counter[str]())
        body.append(
            [
                {"opt": "`sparseflow-opt`", "load": "`sf.load` and a call"}[target],
                f"{sum(row['inputs'] for row in runs):,}",
                "; ".join(f"{name}: {count:,}" for name, count in ends.most_common()),
                str(sum(len(row["findings"]) for row in runs)),
            ]
        )
    headings = ["target", "inputs", "how they ended", "crashes, hangs and tracebacks"]
    return "\n" + markdown(headings, body) + "\n"


TABLES: dict[str, Callable[[Rows], str]] = {
    "gemm_cpu": gemm_cpu,
    "gemm_cpu_epyc": gemm_cpu,
    "compile_cpu": compile_cpu,
    "contextual_cpu": contextual_cpu,
    "contextual_h200": contextual_h200,
    "fuzz": fuzz,
    "gemm_h200": gemm_h200,
    "host_h200": host_h200,
    "load_cpu": load_cpu,
    "memory_h200": memory_h200,
    "model_h200": model_h200,
    "prune_speed_h200": prune_speed,
    "quality_encoder": quality_encoder,
    "quality_encoder_finetune_h200": quality_encoder_finetune,
    "quality_lm_h200": quality_lm,
    "quality_lm_train_h200": quality_lm_train,
    "skinny_h200": skinny_h200,
}


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"
