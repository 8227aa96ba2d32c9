"""`Task`, a point that tuning is to measure."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, order=True)
class Task:
    """A point to be measured: a layer's dtype and shape, and an M."""

    dtype: str
    n: int
    k: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}×{self.k} {self.dtype}, M={self.m}"
