"""Dtypes of what kernels compute."""

from __future__ import annotations


def output_dtype(dtype: str) -> str:
    """Return torch's name of the dtype of y for x and W of ``dtype``: the same, for fp8 bfloat16."""
    return "bfloat16" if dtype == "float8_e4m3fn" else dtype
