"""The kernels that multiply by packed weights, one a file; importing them needs no torch.

A kernel says which problems it can implement and why not others, which candidates to time, and how to run it.
`registry` has the table of the shipped kernels; `register` adds others.
"""

from __future__ import annotations

from sparseflow.runtime.kernels.base import Kernel, Problem
from sparseflow.runtime.kernels.choice import Choice
from sparseflow.runtime.kernels.registry import by_code, find, names, refusal, register, sparse_kernels

__all__ = [
    "Choice",
    "Kernel",
    "Problem",
    "by_code",
    "find",
    "names",
    "refusal",
    "register",
    "sparse_kernels",
]
