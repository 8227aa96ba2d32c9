"""A tuned point: a layer's shape, an M, and the times of dense and of each sparse candidate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from sparseflow.runtime.dispatch.rows import require_fields, require_number, require_text
from sparseflow.runtime.kernels import sparse_kernels
from sparseflow.runtime.kernels.outputs import output_dtype
from sparseflow.runtime.tuning.sweep import DTYPES

Effort = Literal["quick", "full"]
"""How thoroughly a point was measured: a few candidates in few rounds, or all of them."""

KEPT = 4
"""The number of fastest candidates that a point keeps."""

FP8 = "float8_e4m3fn"

BOUNDS = {"bfloat16": 8e-3, "float16": 1e-3, "float8_e4m3fn": 4e-2}
"""The largest rel_err of a right product, by the dtype of x.

A few roundings of y are allowed; one is 1.7e-3 in bfloat16 and 2.1e-4 in float16. Tensor cores add fp8
products with few bits, which over a long K exceeds the rounding. A wrong product is off by about 1."""


@dataclasses.dataclass(frozen=True, order=True)
class Candidate:
    """A candidate that gave the right product.

    Attributes:
        backend: the kernel's name.
        algorithm: the id of cuSPARSELt's algorithm, valid for one version of the library, or the kernel's
            variant.
        split_k: cuSPARSELt's split-k: 0 for the library's choice, −1 or a positive factor.
        us: microseconds of one product.
        rel_err: ‖y − ref‖ / ‖ref‖ against the product in float32.
    """

    backend: str
    algorithm: int
    split_k: int
    us: float
    rel_err: float

    @property
    def key(self) -> tuple[str, int, int]:
        """The kernel, its algorithm and its split-k."""
        return self.backend, self.algorithm, self.split_k

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Candidate:
        """Build a candidate from JSON, checking every field.

        Raises:
            ValueError: a field is missing, unknown, of another type or out of range.
        """
        _require_key(cls, row)
        require_number("us", row["us"], whole=False)
        require_number("rel_err", row["rel_err"], whole=False, least=0)
        return cls(**row)


@dataclasses.dataclass(frozen=True, order=True)
class Failure:
    """A candidate that can't be used: it was refused, gave a wrong product, hung, or ended its process.

    Attributes:
        backend: as in `Candidate`.
        algorithm: as in `Candidate`.
        split_k: as in `Candidate`.
        why: a phrase for a report.
    """

    backend: str
    algorithm: int
    split_k: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Failure:
        """Build a failure from JSON, checking every field.

        Raises:
            ValueError: a field is missing, unknown, of another type or out of range.
        """
        _require_key(cls, row)
        require_text("why", row["why"])
        return cls(**row)


@dataclasses.dataclass(frozen=True, order=True)
class TunedPoint:
    """The times of one layer at one M, measured in turns in one process.

    Attributes:
        dtype: torch's name of the dtype of x and W: ``"bfloat16"``, ``"float16"`` or ``"float8_e4m3fn"``.
        out: the dtype of y: the same, or ``"bfloat16"`` for fp8.
        n: out features.
        k: in features.
        m: rows of x.
        dense_us: the dense product with the same pruned weight: ``F.linear``, or for fp8 ``torch._scaled_mm``
            with or without fast accumulation, each in its faster configuration.
        unpacked_us: decompression into scratch memory and the dense product, as in the operator's dense path.
            For fp8, which the operator doesn't decompress, the time of decompression plus ``dense_us``.
        candidates: the `KEPT` best ones, fastest first; none if all failed.
        failed: the candidates that can't be used at this point.
        dense_bf16_us: for fp8, ``F.linear`` in bfloat16; None for 16-bit dtypes.
        effort: ``"full"`` if every candidate was tried; ``"quick"`` if only the most promising ones were.
        unscaled_us: for fp8, the fastest candidate of cuSPARSELt without the kernel that scales its result:
            its time where the kernel that reads the result scales it. None without one, and in older points.
    """

    dtype: str
    out: str
    n: int
    k: int
    m: int
    dense_us: float
    unpacked_us: float
    candidates: tuple[Candidate, ...]
    failed: tuple[Failure, ...]
    dense_bf16_us: float | None = None
    effort: Effort = "full"
    unscaled_us: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, `unscaled_us` only if it is known."""
        row = dataclasses.asdict(self)
        return row if self.unscaled_us is not None else {k: v for k, v in row.items() if k != "unscaled_us"}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> TunedPoint:
        """Build a point from JSON, checking every field.

        Raises:
            ValueError: a field is missing, unknown, of another type or out of range, or they contradict
                each other.
        """
        row = {"unscaled_us": None, **row} if isinstance(row, Mapping) else row
        require_fields(cls, row)
        if row["dtype"] not in DTYPES or row["out"] != output_dtype(row["dtype"]):
            raise ValueError(f"no tuned product of {row['dtype']!r} giving {row['out']!r}")
        for name in ("n", "k", "m"):
            require_number(name, row[name], whole=True)
        for name in ("dense_us", "unpacked_us"):
            require_number(name, row[name], whole=False)
        _require_bf16(row)
        if row["effort"] not in get_args(Effort):
            raise ValueError(f"effort must be quick or full, got {row['effort']!r}")
        candidates = tuple(Candidate.from_dict(entry) for entry in _list(row, "candidates"))
        failed = tuple(Failure.from_dict(entry) for entry in _list(row, "failed"))
        _require_ranking(candidates)
        _require_unscaled(row, candidates)
        return cls(**{**row, "candidates": candidates, "failed": failed})

    def figures(self) -> str:
        """Return the times and the best candidate in a line."""
        dense = f"dense {self.dense_us:.1f} µs, unpacked {self.unpacked_us:.1f}"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        if not self.candidates:
            return f"{dense}, no candidate{failed}"
        best = self.candidates[0]
        how = f"{best.backend} {best.algorithm}" + (f", split-k {best.split_k}" if best.split_k else "")
        return f"{dense}, sparse {best.us:.1f} ({self.dense_us / best.us:.2f}×, {how}){failed}"


def finalists(dtype: str, ranked: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return the `KEPT` first of candidates' keys, fastest first.

    In fp8 the last gives way to the first of cuSPARSELt if none is among them: without its scaling that may
    be the fastest.
    """
    keys = list(ranked)
    kept, library = keys[:KEPT], [key for key in keys if key[0] == "cusparselt"]
    if dtype == FP8 and library and library[0] not in kept:
        kept[-1] = library[0]
    return kept


def wrong(dtype: str, rel_err: float) -> str | None:
    """Return why a product with this relative error is wrong, or None if it is right; NaN is wrong."""
    if math.isfinite(rel_err) and 0 <= rel_err <= BOUNDS[dtype]:
        return None
    return f"wrong product: relative error {rel_err:.3g}, at most {BOUNDS[dtype]:g} is right in {dtype}"


def _require_key(kind: type, row: object) -> None:
    fields = require_fields(kind, row)
    known = [kernel.name for kernel in sparse_kernels("cuda")]
    if fields["backend"] not in known:
        raise ValueError(f"backend must be one of {', '.join(known)}, got {fields['backend']!r}")
    require_number("algorithm", fields["algorithm"], whole=True, least=0)
    require_number("split_k", fields["split_k"], whole=True, least=-1)


def _require_bf16(row: Mapping[str, Any]) -> None:
    if (row["dense_bf16_us"] is None) != (row["dtype"] != FP8):
        raise ValueError("dense_bf16_us is there for fp8, and null for other dtypes")
    if row["dense_bf16_us"] is not None:
        require_number("dense_bf16_us", row["dense_bf16_us"], whole=False)


def _require_unscaled(row: Mapping[str, Any], candidates: Sequence[Candidate]) -> None:
    if row["unscaled_us"] is None:
        return
    require_number("unscaled_us", row["unscaled_us"], whole=False)
    if row["dtype"] != FP8 or all(candidate.backend != "cusparselt" for candidate in candidates):
        raise ValueError("unscaled_us is there for fp8 with a candidate of cuSPARSELt alone")


def _list(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = row[name]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, got {value!r}")
    return value


def _require_ranking(candidates: Sequence[Candidate]) -> None:
    times = [candidate.us for candidate in candidates]
    if len(times) > KEPT or times != sorted(times) or len({c.key for c in candidates}) < len(times):
        raise ValueError(f"candidates must be at most {KEPT}, each once, fastest first")
