"""One measured point: a layer's shape, an M, and what each way of running it took."""

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
    """Times of one layer at one M, all of them for the whole layer.

    Attributes:
        dtype: torch's name of the dtype, such as "float32".
        n: out features.
        k: in features.
        m: rows of the input.
        dense_us: ``F.linear`` with the dense weight.
        unpacked_us: decompress, then the dense product: what the kernel ``dense`` runs.
        sparse_us: each sparse way that can run this M, as a policy writes it, with its time.
        rows: how many of the N rows were measured; fewer than N where the times were scaled up from a slice.
        reps: how many times each side ran.
        crowded: whether other processes kept cores busy meanwhile, so that fewer threads ran.
        threads: how many ran. Fewer than the machine's give times that are scaled down to all of them; one is
            timed by the processor time that it got.
        spread: how far a side's times lay apart, as in `sparseflow.runtime.robust.Settled`.
        tries: how often the point was measured; these are the times of the best try.
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
        """Ways whose times differ by no more than this factor are as fast, for all that these times tell."""
        return 1 + LOOSE if self.crowded else max(TOLERANCE, 1 + min(self.spread, LOOSE))

    def ways(self) -> tuple[Choice, ...]:
        """What may run here, dense first; the table may have times of kernels that this process lacks."""
        return (DENSE, *(found for text, _ in self.sparse_us if (found := _known(text))))

    def us(self, choice: Choice) -> float:
        """The time of one way of running; infinite where it wasn't timed."""
        if choice.is_dense:
            return self.unpacked_us
        return dict(self.sparse_us).get(str(choice), math.inf)

    def speedup(self, choice: Choice) -> float:
        """Of one way of running over the dense layer that it replaces."""
        return self.dense_us / self.us(choice)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"sparse_us": dict(self.sparse_us)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Measurement:
        """From JSON, every field checked.

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
