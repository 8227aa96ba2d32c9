"""A roofline of products: their time by bytes, operations and launch, and the shares that kernels reach.

The constants are in ``cost_model.json``, which ``tools/fit_cost_model.py`` fits to the shipped tables.
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
"""Rows and columns of y in a block of a large product, which the number of waves is computed with."""

_SIZES = {"bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}


@dataclasses.dataclass(frozen=True)
class Product:
    """The product x · Wᵀ in a dtype, with x ``[M, K]`` and W ``[N, K]``."""

    dtype: str
    n: int
    k: int
    m: int

    def bytes(self, *, dense: bool) -> float:
        """Return the bytes that it moves, each matrix once.

        A 2:4 weight has half the values, and a quarter byte of positions for each.
        """
        size = _SIZES[self.dtype]
        weight = self.n * self.k * (size if dense else size / 2 + 1 / 8)
        return weight + self.m * self.k * size + self.m * self.n * 2

    def waves(self, rows: int, columns: int, sms: int) -> float:
        """Return the number of waves of blocks, fractional, that compute y ``[M, N]``.

        Args:
            rows: rows of y in a block.
            columns: columns of y in a block.
            sms: multiprocessors, one block each.
        """
        return math.ceil(self.n / columns) * math.ceil(self.m / rows) / sms


def idle(waves: float) -> float:
    """Return the block slots of all waves over the number of blocks."""
    return math.ceil(waves) / waves


@dataclasses.dataclass(frozen=True)
class Side:
    """The figures that one kind of kernels reaches in a dtype.

    Attributes:
        launch: µs of a launch.
        bandwidth: the share of the memory's bandwidth.
        flops: the share of the tensor cores' rate.
        waves: the exponent of `idle`; near 0 if an idle last wave doesn't show.
    """

    launch: float
    bandwidth: float
    flops: float
    waves: float

    def us(self, product: Product, hardware: Hardware, *, dense: bool) -> float:
        """Return the product's time on a GPU in µs."""
        rate = hardware.flops * (2 if _SIZES[product.dtype] == 1 else 1) * (1 if dense else 2)
        turns = product.waves(TILE, TILE, hardware.sms)
        # With few blocks, kernels split K among more of them, so none is idle.
        tail = idle(turns) ** self.waves if turns > 1 else 1.0
        compute = 2 * product.n * product.k * product.m * tail / (rate * self.flops)
        memory = product.bytes(dense=dense) / (hardware.bandwidth * self.bandwidth)
        return self.launch + float((memory**4 + compute**4) ** 0.25)


@dataclasses.dataclass(frozen=True)
class Near:
    """How recorded points are weighted, and how certain a prediction must be.

    Attributes:
        count: the number of nearest points that are used.
        n: the distance of a doubling of N.
        k: the distance of a doubling of K.
        m: the distance of a doubling of M.
        idle: the distance of a doubling of `idle`.
        foreign: added to the squared distance of another GPU's points.
        floor: added to every squared distance.
        deviations: standard deviations that are subtracted from the log speed-up before it is compared.
        margin: the log speed-up that must remain for a layer to be predicted faster sparse.
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
    """All fitted constants.

    Attributes:
        sides: by kernel, then dtype; ``"dense"`` is torch's product.
        near: the weights of recorded points.
    """

    sides: Mapping[str, Mapping[str, Side]]
    near: Near

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Constants:
        """Build the constants from the file's contents."""
        sides = {
            kernel: {dtype: Side(**numbers) for dtype, numbers in found.items()}
            for kernel, found in document["sides"].items()
        }
        return cls(sides, Near(**document["near"]))


@functools.cache
def fitted() -> Constants:
    """Return the shipped constants."""
    return Constants.from_dict(json.loads(FILE.read_bytes()))
