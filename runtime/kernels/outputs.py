"""The output dtypes of kernels."""

from __future__ import annotations


def output_dtype(dtype: str) -> str:
    """Return torch's name of the dtype of y for x and W of ``dtype``: bfloat16 for fp8, else the same."""
    return "bfloat16" if dtype == "float8_e4m3fn" else dtype
