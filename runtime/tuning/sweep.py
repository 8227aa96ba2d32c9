"""The shapes and M's tuned by default, and those that can't be tuned."""

from __future__ import annotations

from sparseflow.runtime import kernels

DEFAULT_M = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Rows of x: decoding of one sequence up to a prefill of 16 thousand tokens."""

QUICK_M = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192)
"""Those of quick tuning: with them dispatch is within 3 % of what `DEFAULT_M` gives (bench_cost_model.py)."""

FIRST_M = (1, 16, 256, 2048)
"""Those that quick tuning measures of every shape before it goes on with the others."""

PLANS = {"float16": 2}
"""The most candidates of cuSPARSELt that quick tuning tries: in fp16 compiling a plan takes 0.2–0.4 s."""

REACH = 4
"""A fully tuned point stands for M's up to so many times larger or smaller: tables have such steps."""

DTYPES = ("bfloat16", "float16", "float8_e4m3fn")
"""torch's names of the dtypes that can be tuned."""


def refusal(n: int, k: int, dtype: str) -> str | None:
    """Why there is nothing to tune for a weight [N, K], or None."""
    format = "2:4-fp8" if dtype == "float8_e4m3fn" else "2:4"
    return kernels.refusal(kernels.Problem(dtype, n, k, "cuda", format=format), anywhere=True)
