"""The ways a 2:4 linear layer can be run, and the codes by which the native dispatcher knows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, get_args

from sparseflow.errors import ArgumentError

Memory = Literal["compressed", "fast"]
"""``compressed`` keeps no dense copy of a packed weight, ``fast`` one wherever dense is faster for some M."""

MEMORY_MODES: tuple[Memory, ...] = get_args(Memory)


class Backend(IntEnum):
    """A path of ``sparseflow::linear``; the value is the low byte of its code in the ``policy`` argument."""

    DENSE = 0  # the dense product: with the kept copy, else with the weight decompressed into a scratch
    CPU = 1  # own kernels: AVX-512, AVX2 or plain C++
    CUSPARSELT = 2  # on NVIDIA GPUs, with an algorithm of the library
    SKINNY = 3  # on NVIDIA GPUs: own kernel for few rows, in one of its variants


_VARIED = (Backend.CUSPARSELT, Backend.SKINNY)


_TEXT = re.compile(r"([a-z]+)(?:@(\d{1,5})(?:/(-?\d{1,3}))?)?", re.ASCII)


@dataclass(frozen=True, order=True)
class Choice:
    """A backend, and how it runs.

    Attributes:
        backend: the path.
        algorithm: of cuSPARSELt, whose ids mean something for one version of the library only, or the variant
            of the own kernel; 0 … 65535.
        split_k: of cuSPARSELt; 0 leaves the library's choice, −1 … 254 sets it.

    Raises:
        ArgumentError: an algorithm or split-k outside these bounds, or of a backend that has none.
    """

    backend: Backend
    algorithm: int = 0
    split_k: int = 0

    def __post_init__(self) -> None:
        inside = 0 <= self.algorithm < 1 << 16 and -1 <= self.split_k < 255
        allowed = self.backend in _VARIED or not self.algorithm
        if not inside or not allowed or (self.split_k and self.backend is not Backend.CUSPARSELT):
            raise ArgumentError(
                "policy",
                f"{self.backend.name.lower()} has no algorithm {self.algorithm} with split-k {self.split_k}",
            )

    @property
    def code(self) -> int:
        """What ``sparseflow::linear`` takes for it: backend | algorithm << 8 | split-k << 24."""
        return self.backend | self.algorithm << 8 | (self.split_k & 255) << 24

    @classmethod
    def from_code(cls, code: int) -> Choice:
        """Read what ``code`` gives.

        Raises:
            ValueError: no backend has that code.
        """
        split_k = code >> 24 & 255
        return cls(Backend(code & 255), code >> 8 & 0xFFFF, -1 if split_k == 255 else split_k)

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Read what ``str`` writes.

        Raises:
            ValueError: the text names no backend.
            ArgumentError: the backend hasn't that algorithm.
        """
        match = _TEXT.fullmatch(text)
        if match is None or match[1].upper() not in Backend.__members__:
            raise ValueError(text)
        return cls(Backend[match[1].upper()], int(match[2] or 0), int(match[3] or 0))

    def __str__(self) -> str:
        name = self.backend.name.lower()
        if self.backend not in _VARIED:
            return name
        return f"{name}@{self.algorithm}" + (f"/{self.split_k}" if self.split_k else "")
