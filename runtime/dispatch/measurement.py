"""A measured point: a layer's shape, an M, and the time of each way of running it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch.policy import TOLERANCE
from sparseflow.runtime.dispatch.rows import require_fields, require_number, require_text
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.robust import LOOSE

DENSE = Choice("dense")

MEASURED_M = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclasses.dataclass(frozen=True, order=True)
class Measurement:
    """The times of one layer at one M, all in microseconds and for the whole layer.

    Attributes:
        dtype: torch's name of the dtype, such as ``"float32"``.
        n: out features.
        k: in features.
        m: rows of the input.
        dense_us: ``F.linear`` with the dense weight.
        unpacked_us: decompression and the dense product, which the kernel ``dense`` runs.
        sparse_us: each sparse way that can run this M, as policies write it, and its time.
        rows: the measured rows of the weight; fewer than N if the times were scaled up from a slice.
        reps: how many times each side ran.
        crowded: whether other processes kept cores busy, so that fewer threads ran.
        threads: the threads that ran. Times of fewer threads than the machine has are scaled down to all of
            them; a single thread is timed by its processor time.
        spread: the spread of the times, as in `sparseflow.runtime.robust.Settled`.
        tries: how often the point was measured; the times are those of the best try.
    """

    dtype: str
    n: int
    k: int
    m: int
    dense_us: float
    unpacked_us: float
    sparse_us: tuple[tuple[str, float], ...]
    rows: int
    reps: int
    crowded: bool
    threads: int = 1
    spread: float = 0.0
    tries: int = 1

    @property
    def settled(self) -> bool:
        """Whether the times agreed."""
        return self.spread <= LOOSE

    @property
    def tolerance(self) -> float:
        """The factor up to which times of two ways count as equal."""
        return 1 + LOOSE if self.crowded else max(TOLERANCE, 1 + min(self.spread, LOOSE))

    def ways(self) -> tuple[Choice, ...]:
        """Return the ways that can run here, dense first; times of kernels unknown here are left out."""
        return (DENSE, *(found for text, _ in self.sparse_us if (found := _known(text))))

    def us(self, choice: Choice) -> float:
        """Return the time of a way in microseconds; infinite if it wasn't timed."""
        if choice.is_dense:
            return self.unpacked_us
        return dict(self.sparse_us).get(str(choice), math.inf)

    def speedup(self, choice: Choice) -> float:
        """Return the speed-up of a way over the dense layer."""
        return self.dense_us / self.us(choice)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self) | {"sparse_us": dict(self.sparse_us)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Measurement:
        """Build a measurement from JSON, checking every field.

        Raises:
            ValueError: a field is missing, unknown, of another type, or not positive and finite.
        """
        require_fields(cls, row)
        require_text("dtype", row["dtype"])
        if not isinstance(row["crowded"], bool):
            raise ValueError(f"crowded must be true or false, got {row['crowded']!r}")
        for field in dataclasses.fields(cls):
            if field.type in ("int", "float"):
                least = 0 if field.name == "spread" else None
                require_number(field.name, row[field.name], whole=field.type == "int", least=least)
        sparse = row["sparse_us"]
        if not isinstance(sparse, Mapping):
            raise ValueError(f"sparse_us must have a time for each kernel, got {sparse!r}")
        for name, us in sparse.items():
            require_number(f"sparse_us of {name}", us, whole=False)
        return cls(**{**row, "sparse_us": tuple(sparse.items())})


def _known(text: str) -> Choice | None:
    try:
        return Choice.parse(text)
    except ArgumentError:
        return None
