"""One measured point: a layer's shape, an M, and what each way of running it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sparseflow.runtime.backends import Backend
from sparseflow.runtime.dispatch.rows import require_fields, require_number, require_text

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
        cpu_us: the sparse kernel.
        unpacked_us: decompress, then the dense product: what ``Backend.DENSE`` runs.
        rows: how many of the N rows were measured; fewer than N where the times were scaled up from a slice.
        reps: how many times each side ran.
        crowded: whether other processes kept the cores busy meanwhile, so that the times mean little.
    """

    dtype: str
    n: int
    k: int
    m: int
    dense_us: float
    cpu_us: float
    unpacked_us: float
    rows: int
    reps: int
    crowded: bool

    def us(self, backend: Backend) -> float:
        """The time of one backend."""
        return self.cpu_us if backend is Backend.CPU else self.unpacked_us

    def speedup(self, backend: Backend) -> float:
        """Of one backend over the dense layer that it replaces."""
        return self.dense_us / self.us(backend)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

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
                require_number(field.name, row[field.name], whole=field.type == "int")
        return cls(**row)
