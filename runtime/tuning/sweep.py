"""What is tuned unless told otherwise, and what can't be."""

from __future__ import annotations

DEFAULT_M = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Rows of x: decoding of one sequence up to a prefill of 16 thousand tokens."""

DTYPES = ("bfloat16", "float16", "float8_e4m3fn")
"""torch's names of the dtypes that can be tuned."""

SPLITS = (0, -1)
"""The library's choice, tried for every algorithm, and −1, for the best ones. sm_90 takes no factor."""

BACKENDS = ("cusparselt", "skinny")
"""What is tuned, by the names of ``Backend``."""

SKINNY_M = 256
"""The most rows of x with which the own kernel for few rows is tried."""

FP8_UNIT = 16
"""What N and K must be multiples of for torch to have a dense fp8 product to compare with."""


def output_dtype(dtype: str) -> str:
    """The dtype of y for x and W of ``dtype``: the same, for fp8 bfloat16."""
    return "bfloat16" if dtype == "float8_e4m3fn" else dtype


def refusal(n: int, k: int, dtype: str) -> str | None:
    """Why there is nothing to tune for a weight [N, K], or None."""
    if n < 1 or k < 1:
        return f"N and K must be at least 1, got N={n}, K={k}"
    if dtype == "float8_e4m3fn" and (n % FP8_UNIT or k % FP8_UNIT):
        return f"torch's fp8 product needs N and K to be multiples of {FP8_UNIT}, got N={n}, K={k}"
    return None
