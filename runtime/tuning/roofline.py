"""How long a product takes by its bytes, its operations and its launch, with what kernels reach of each.

The constants are in ``cost_model.json``, which ``tools/fit_cost_model.py`` fits to the shipped tables and
writes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparseflow.runtime.tuning.hardware import Hardware

FILE = Path(__file__).with_name("cost_model.json")

TILE = 128
"""Rows and columns of y that a block of a large product makes; waves are counted in such."""

_SIZES = {"bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}


@dataclasses.dataclass(frozen=True)
class Product:
    """x · Wᵀ of a dtype, x ``[M, K]``, W ``[N, K]``."""

    dtype: str
    n: int
    k: int
    m: int

    def bytes(self, *, dense: bool) -> float:
        """What it moves, each matrix once; a 2:4 weight is half the values and a quarter byte for each."""
        size = _SIZES[self.dtype]
        weight = self.n * self.k * (size if dense else size / 2 + 1 / 8)
        return weight + self.m * self.k * size + self.m * self.n * 2

    def waves(self, rows: int, columns: int, sms: int) -> float:
        """How many turns the multiprocessors take, a part of one too, if blocks make so much of y [M, N]."""
        return math.ceil(self.n / columns) * math.ceil(self.m / rows) / sms


def idle(waves: float) -> float:
    """Places of all turns over those that blocks fill."""
    return math.ceil(waves) / waves


@dataclasses.dataclass(frozen=True)
class Side:
    """What a kind of kernels reaches in a dtype.

    Attributes:
        launch: µs.
        bandwidth: share of the memory's.
        flops: share of the tensor cores'.
        waves: exponent of what the last wave leaves idle: near 0 where that does not show.
    """

    launch: float
    bandwidth: float
    flops: float
    waves: float

    def us(self, product: Product, hardware: Hardware, *, dense: bool) -> float:
        """The product's time on a GPU."""
        rate = hardware.flops * (2 if _SIZES[product.dtype] == 1 else 1) * (1 if dense else 2)
        turns = product.waves(TILE, TILE, hardware.sms)
        tail = idle(turns) ** self.waves if turns > 1 else 1.0  # few blocks share K out among more
        compute = 2 * product.n * product.k * product.m * tail / (rate * self.flops)
        memory = product.bytes(dense=dense) / (hardware.bandwidth * self.bandwidth)
        return self.launch + float((memory**4 + compute**4) ** 0.25)


@dataclasses.dataclass(frozen=True)
class Near:
    """How recorded points are weighed, and how sure a prediction must be.

    Attributes:
        count: how many of the nearest points are read.
        n: what a doubling of N counts in the distance.
        k: what a doubling of K counts.
        m: what a doubling of M counts.
        idle: what a doubling of `idle` counts.
        foreign: the squared distance that is added to another GPU's points.
        floor: added to every squared distance.
        deviations: of the log speed-up that are taken off before a layer is said to run faster sparse.
        margin: the log speed-up that must be left.
        share: the weight of the points that must have kept a candidate.
    """

    count: int
    n: float
    k: float
    m: float
    idle: float
    foreign: float
    floor: float
    deviations: float
    margin: float
    share: float


@dataclasses.dataclass(frozen=True)
class Constants:
    """All that is fitted.

    Attributes:
        sides: by kernel, then dtype; "dense" is torch's product.
        near: of the recorded points.
    """

    sides: Mapping[str, Mapping[str, Side]]
    near: Near

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Constants:
        """Read what the file holds."""
        sides = {
            kernel: {dtype: Side(**numbers) for dtype, numbers in found.items()}
            for kernel, found in document["sides"].items()
        }
        return cls(sides, Near(**document["near"]))


@functools.cache
def fitted() -> Constants:
    """The shipped constants."""
    return Constants.from_dict(json.loads(FILE.read_bytes()))
