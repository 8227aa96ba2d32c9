"""`Task`, a point that tuning is to measure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, order=True)
class Task:
    """A point to be measured: a layer's dtype and shape, an M, and the pattern of the layer's weight."""

    dtype: str
    n: int
    k: int
    m: int
    pattern: str = "2:4"

    def __str__(self) -> str:
        stored = "" if self.pattern == "2:4" else f" {self.pattern}"
        return f"{self.n}×{self.k} {self.dtype}{stored}, M={self.m}"
