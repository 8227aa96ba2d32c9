"""README's table of which sparsity is for which work, each line with its measured figure."""

from __future__ import annotations

from pathlib import Path

from _table import markdown
from figures import figure

NAME = "which_sparsity"

_ROWS: tuple[tuple[str, str, str], ...] = (
    (
        "decoding one stream",
        "activation sparsity, on any weights",
        "3B shape, CPU, neurons: {contextual_model_cpu_float32 side=contextual speedup}",
    ),
    (
        "",
        "",
        "8B shape's tokens, 40% of inputs: {columns_h200 model=Llama-3-8B-shape speedup} torch.compile's",
    ),
    (
        "",
        "",
        "SmolLM2's tokens, CPU, 40% of inputs: {columns_cpu model=SmolLM2-135M-Instruct speedup}",
    ),
    (
        "decoding a batch",
        "fp8 or int4 first, 2:4 on top",
        "a layer at M = 16, fp8: {gemm_h200 dtype=float8_e4m3fn M=16 speedup}",
    ),
    (
        "prefill, encoders, vision",
        "2:4, best in fp8, recovered",
        "prefill, fp8: {model_h200 'phase=prefill, fp8' over_dense_fp8}, in vLLM less",
    ),
    ("", "", "prefill, bf16: {model_h200 phase=prefill speedup}"),
    (
        "",
        "",
        "FLUX's shape, bf16: {model_h200 \"model=flux's shape, 8 blocks\" 'phase=forward, bf16' speedup}",
    ),
    ("", "", "FLUX's shape, fp8: {model_h200 \"model=flux's shape, 8 blocks\" 'phase=forward, fp8' speedup}"),
    ("", "", "BERT, batch of 64, bf16: {default_h200 model=bert-base batch=64 speedup}"),
)
"""The work, what to take, and what was measured, with queries of figures.py in braces."""


def which_sparsity(results: Path) -> str:
    """Return the table with the figures from the files in `results`."""
    body = [[work, choice, _measured(what, results)] for work, choice, what in _ROWS]
    return "\n" + markdown(["work", "take", "measured"], body) + "\n"


def _measured(what: str, results: Path) -> str:
    before, _, rest = what.partition("{")
    query, _, after = rest.partition("}")
    return before + figure(query, results) + after
