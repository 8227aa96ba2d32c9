"""`Choice`, a kernel with its algorithm: what a policy has for a range of M."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparseflow.errors import ArgumentError
from sparseflow.runtime.kernels import registry

_TEXT = re.compile(r"([a-z_0-9]+)(?:@(\d{1,5})(?:/(-?\d{1,3}))?)?", re.ASCII)


@dataclass(frozen=True, order=True)
class Choice:
    """A kernel and the algorithm that it runs by.

    Attributes:
        kernel: the kernel's name.
        algorithm: the id of cuSPARSELt's algorithm, valid for one version of the library, or the variant of
            another kernel; 0 … 65535.
        split_k: cuSPARSELt's split-k; 0 leaves it to the library, −1 … 254 sets it.

    Raises:
        ArgumentError: the kernel is unknown, a number is out of bounds, or the kernel has no algorithms.
    """

    kernel: str
    algorithm: int = 0
    split_k: int = 0

    def __post_init__(self) -> None:
        kernel = registry.find(self.kernel)
        inside = 0 <= self.algorithm < 1 << 16 and -1 <= self.split_k < 255
        allowed = kernel.code is not None and (kernel.varied or not self.algorithm)
        if not inside or not allowed or (self.split_k and len(kernel.splits) == 1):
            raise ArgumentError(
                "policy", f"{self.kernel} has no algorithm {self.algorithm} with split-k {self.split_k}"
            )

    @property
    def code(self) -> int:
        """The code in the policy of ``sparseflow::linear``: kernel | algorithm << 8 | split-k << 24."""
        return (registry.find(self.kernel).code or 0) | self.algorithm << 8 | (self.split_k & 255) << 24

    @property
    def is_dense(self) -> bool:
        """Whether the dense weight is multiplied, kept or decompressed."""
        return registry.find(self.kernel).dense

    @classmethod
    def from_code(cls, code: int) -> Choice:
        """Return the choice with a `code`.

        Raises:
            ArgumentError: no kernel has that code, or the kernel doesn't have that algorithm.
        """
        split_k = code >> 24 & 255
        kernel = registry.by_code(code & 255)
        return cls(kernel.name, code >> 8 & 0xFFFF, -1 if split_k == 255 else split_k)

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Return the choice that ``str`` writes as a text.

        Raises:
            ArgumentError: the text names no kernel, or the kernel doesn't have that algorithm.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise registry.unknown(text)
        return cls(match[1], int(match[2] or 0), int(match[3] or 0))

    def __str__(self) -> str:
        if not registry.find(self.kernel).varied:
            return self.kernel
        return f"{self.kernel}@{self.algorithm}" + (f"/{self.split_k}" if self.split_k else "")
