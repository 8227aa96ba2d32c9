"""The ways a 2:4 linear layer can be run, and the codes by which the native dispatcher knows them."""

from __future__ import annotations

from enum import IntEnum


class Backend(IntEnum):
    """A path of ``sparseflow::linear``; the value is its code in the operator's ``policy`` argument."""

    DENSE = 0  # decompress into a shared scratch, then the dense product
    CPU = 1  # own kernels: AVX-512, AVX2 or plain C++
