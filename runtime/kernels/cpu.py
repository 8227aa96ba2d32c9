"""SparseFlow's CPU kernels: AMX, AVX-512, AVX2 or plain C++ (docs/design/kernels-cpu.md)."""

from __future__ import annotations

from sparseflow.runtime.kernels.base import Kernel

CPU = Kernel(
    name="cpu",
    code=1,
    device_type="cpu",
    dtypes=("float32", "bfloat16", "float16"),
    about="SparseFlow's kernels for CPUs",
    formats=("2:4", "4:6", "6:8"),
)
