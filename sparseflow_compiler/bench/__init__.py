"""Benchmarks of dense against sparse on this device: single products and whole models, in turns."""

from __future__ import annotations

from sparseflow.bench.gemm import gemm_rows
from sparseflow.bench.generate import generate_rows
from sparseflow.bench.llama_cpp import llama_cpp_rows
from sparseflow.bench.model import model_rows
from sparseflow.bench.result import result

__all__ = ["gemm_rows", "generate_rows", "llama_cpp_rows", "model_rows", "result"]
