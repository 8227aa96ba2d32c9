"""The shapes and M's that are tuned by default, and those that can't be tuned."""

from __future__ import annotations

from sparseflow.runtime import kernels

DEFAULT_M = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Rows of x, from decoding one sequence to a prefill of 16 thousand tokens."""

QUICK_M = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Rows of x in quick tuning; dispatch is then within 3% of `DEFAULT_M` (bench_cost_model.py)."""

FIRST_M = (1, 16, 256, 2048, 8192)
"""The M's that quick tuning measures of every shape before it continues with the others."""

PLANS = {"float16": 2}
"""The most candidates of cuSPARSELt in quick tuning; in fp16, compiling a plan takes 0.2–0.4 s."""

REACH = 4
"""A fully tuned point stands for M's up to this factor larger or smaller, the step of the tables."""

DTYPES = ("bfloat16", "float16", "float8_e4m3fn")
"""torch's names of the dtypes that can be tuned."""


def format_of(dtype: str, pattern: str) -> str:
    """Return the name of the format that is tuned for a dtype of x and a pattern of the weight."""
    return "2:4-fp8" if dtype == "float8_e4m3fn" and pattern == "2:4" else pattern


def refusal(n: int, k: int, dtype: str, pattern: str = "2:4") -> str | None:
    """Return why a weight ``[N, K]`` can't be tuned, or None if it can."""
    format = format_of(dtype, pattern)
    return kernels.refusal(kernels.Problem(dtype, n, k, "cuda", format=format), anywhere=True)
