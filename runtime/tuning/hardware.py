"""The figures of a GPU from which its rooflines start."""

from __future__ import annotations

import dataclasses
from typing import Any

SMS, BANDWIDTH, FLOPS = 132, 4.8e6, 9.89e8
"""Multiprocessors, bytes a µs and dense 16-bit operations a µs of an H200, whose table is shipped."""

_FLOPS_A_CYCLE = {(8, 0): 2048, (8, 6): 1024, (8, 7): 1024, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192}
"""Dense 16-bit operations a cycle of a multiprocessor's tensor cores, by compute capability."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """A GPU's figures, as in its data sheet.

    Attributes:
        sms: the number of multiprocessors.
        bandwidth: bytes a µs of the memory.
        flops: dense 16-bit operations a µs of the tensor cores; fp8 and 2:4 double it each.
    """

    sms: int = SMS
    bandwidth: float = BANDWIDTH
    flops: float = FLOPS

    @classmethod
    def named(cls, gpu: str) -> Hardware:
        """Return the figures of a GPU that a table was tuned on."""
        return _KNOWN.get(gpu) or cls()

    @classmethod
    def here(cls, index: int | None = None) -> Hardware:
        """Return the figures of a CUDA device; unknown ones are an H200's, scaled by multiprocessors."""
        import torch

        found: Any = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
        return cls.of(found)

    @classmethod
    def of(cls, properties: Any) -> Hardware:
        """Return the figures from torch's properties of a device, whose clocks are in kHz."""
        sms = int(properties.multi_processor_count)
        share = sms / SMS
        clock, memory = (getattr(properties, name, 0) for name in ("clock_rate", "memory_clock_rate"))
        wide = getattr(properties, "memory_bus_width", 0) / 8
        a_cycle = _FLOPS_A_CYCLE.get((properties.major, properties.minor), 0)
        return cls(
            sms, 2e-3 * memory * wide or BANDWIDTH * share, 1e-3 * clock * a_cycle * sms or FLOPS * share
        )


_KNOWN = {
    "NVIDIA H200": Hardware(),
    "NVIDIA H100 80GB HBM3": Hardware(bandwidth=3.35e6),
    "NVIDIA H100 PCIe": Hardware(114, 2.0e6, 7.56e8),
    "NVIDIA H20": Hardware(78, 4.0e6, 1.48e8),
    "NVIDIA GH200 480GB": Hardware(bandwidth=4.0e6),
}
