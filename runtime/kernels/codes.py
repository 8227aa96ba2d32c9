"""The codes of kernels in the native dispatcher."""

from __future__ import annotations

FIRST_REGISTERED = 64
"""The first code that the native operators pass on to kernels implemented in Python; the last is 255."""
