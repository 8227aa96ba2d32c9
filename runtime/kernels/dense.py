"""torch's dense product, with the kept dense weight or the packed one decompressed."""

from __future__ import annotations

from dataclasses import dataclass

from sparseflow.runtime.kernels.base import Kernel, Problem

_FP8_UNIT = 16
"""torch's fp8 product needs N and K to be multiples of this."""


@dataclass(frozen=True)
class Dense(Kernel):
    """The dense product, with which every sparse kernel is compared."""

    def unsuited(self, problem: Problem) -> str | None:
        """Return why torch can't run a problem on any machine, or None."""
        if why := super().unsuited(problem):
            return why
        fp8 = problem.dtype == "float8_e4m3fn" and problem.device_type == "cuda"
        if fp8 and (problem.n % _FP8_UNIT or problem.k % _FP8_UNIT):
            return (
                f"torch's fp8 product needs N and K to be multiples of {_FP8_UNIT}, "
                f"got N={problem.n}, K={problem.k}"
            )
        return None


DENSE = Dense(
    name="dense",
    code=0,
    device_type="",
    dtypes=("float32", "bfloat16", "float16", "float8_e4m3fn", "float64"),
    about="torch's dense product, with the dense weight or the packed one decompressed",
    formats=("2:4", "4:6", "6:8", "2:4-fp8"),
    dense=True,
)
