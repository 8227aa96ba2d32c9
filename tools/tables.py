"""What the documents' tables say of the rows of each result file (readme_tables.py)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import tables_serving
from _table import Rows, grouped, markdown, times
from tables_columns import columns_cpu, columns_gpu, wide
from tables_contextual import contextual_cpu, contextual_h200, contextual_model
from tables_decode import decode, decode_attention, prompt
from tables_default import NAMES, default
from tables_models import fp8_ends, model_h200, models_beside_dense
from tables_patterns import patterns_gpu, same_tokens
from tables_quality import (
    prune_speed,
    quality_encoder,
    quality_encoder_finetune,
    quality_encoder_recover,
    quality_lm,
    quality_lm_train,
)
from tables_recovery import quality_activations, quality_fp8, quality_methods, quality_patterns
from tables_tuning import cost_model


def gemm_cpu(rows: Rows) -> str:
    """Speed-up of what dispatch runs over F.linear; one block a mode."""
    text = ""
    for mode in dict.fromkeys(row["mode"] for row in rows):
        chosen = [row for row in rows if row["mode"] == mode]
        cells = {(r["dtype"], r["N"], r["K"], r["M"]): r["speedup_dispatched"] for r in chosen}
        sizes = sorted({key[3] for key in cells})
        body = [
            [dtype, f"{n}×{k}", *(times(cells.get((dtype, n, k, m))) for m in sizes)]
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
            [f"{n}×{k}", *(times(cells.get((n, k, m))) for m in sizes)]
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
    theirs = "" if row["over_cusparselt"] is None else f" · {times(row['over_cusparselt'])}"
    missed = "" if row["met"] or row["dtype"] != "bfloat16" else f" (asked {row['target']})"
    return f"{times(row['speedup'])} · {100 * row['share_of_copy']:.0f} %{theirs}{missed}"


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
            times(row["ratio"]),
            times(row["ratio_cpu"]),
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


_FUZZED = {
    "opt": "`sparseflow-opt`",
    "load": "`sf.load` and a call",
    "compile": "`sf.compile` and the backend, calls in sequence",
}


def fuzz(rows: Rows) -> str:
    """How many inputs a target was given, and what became of them."""
    body = []
    for (target,), runs in grouped(rows, lambda row: (row["target"],)):
        ends = sum((Counter(row["outcomes"]) for row in runs), Counter[str]())
        body.append(
            [
                _FUZZED[target],
                f"{sum(row['inputs'] for row in runs):,}",
                "; ".join(f"{name}: {count:,}" for name, count in ends.most_common()),
                str(sum(len(row["findings"]) for row in runs)),
            ]
        )
    headings = ["target", "inputs", "how they ended", "findings"]
    return "\n" + markdown(headings, body) + "\n"


def noise_cpu(rows: Rows) -> str:
    """How many calibrations gave one policy, beside a busy core and without."""
    body = [
        [
            f"{row['N']}×{row['K']}",
            row["busy_cores"],
            f"{row['same']} of {row['runs']}",
            f"{row['same_to_the_letter']} of {row['runs']}",
            f"{row['seconds']:.1f} s",
            f"{row['points_crowded']:.0%}",
            f"{row['points_unsettled']:.0%}",
        ]
        for row in rows
    ]
    columns = "N×K, busy core, same policy, same choice at each M, a layer took, crowded points, not settled"
    return "\n" + markdown(columns.split(", "), body) + "\n"


TABLES: dict[str, Callable[[Rows], str]] = {
    "gemm_cpu": gemm_cpu,
    "gemm_cpu_epyc": gemm_cpu,
    "columns_cpu": columns_cpu,
    "columns_h200": columns_gpu,
    "compile_cpu": compile_cpu,
    **dict.fromkeys(NAMES, default),
    "contextual_cpu": contextual_cpu,
    "contextual_cpu_busy_host": contextual_cpu,
    "contextual_cpu_small_pages": contextual_cpu,
    "contextual_h200": contextual_h200,
    "contextual_model_cpu_float32": contextual_model,
    "cost_model_h200": cost_model,
    "decode_cpu": decode,
    "decode_cpu_zen4": decode,
    "decode_h200": decode,
    "decode_attention_h200": decode_attention,
    "fp8_ends_h200": fp8_ends,
    "fuzz": fuzz,
    "gemm_h200": gemm_h200,
    "host_h200": host_h200,
    "load_cpu": load_cpu,
    "memory_h200": memory_h200,
    "model_h200": model_h200,
    "noise_cpu": noise_cpu,
    "patterns_h200": patterns_gpu,
    "model_small_tuned_h200": models_beside_dense,
    "prune_speed_h200": prune_speed,
    "quality_encoder": quality_encoder,
    "quality_encoder_finetune_h200": quality_encoder_finetune,
    "quality_encoder_recover_h200": quality_encoder_recover,
    "quality_lm_h200": quality_lm,
    "quality_activations_h200": quality_activations,
    "quality_fp8_h200": quality_fp8,
    "quality_smollm2_h200": quality_patterns,
    "quality_patterns_h200": quality_methods,
    "prompt_h200": prompt,
    "quality_lm_train_h200": quality_lm_train,
    "same_tokens_cpu": same_tokens,
    "same_tokens_smollm2_cpu": same_tokens,
    "serve_fp8_h200": tables_serving.serve,
    "serve_h200": tables_serving.serve,
    "skinny_h200": skinny_h200,
    "wide_h200": wide,
    "vllm_columns_h200": tables_serving.vllm,
    "vllm_h200": tables_serving.vllm,
    "vllm_load_h200": tables_serving.load,
}
