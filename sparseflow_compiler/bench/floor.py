"""The time that reading the bytes of a step takes, which no kernel can go below."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.profiling.measure_model import Bench
from sparseflow.runtime.huge_pages import lay_in_huge_pages


class Floor:
    """Reads of as many bytes as a step reads.

    Args:
        device: whose memory is read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._read: Tensor | None = None

    def seconds(self, size: int) -> float:
        """Return how long a sum over so many bytes takes, measured anew."""
        count = max(size // 4, 1)
        if self._read is None or len(self._read) < count:
            self._read = torch.randn(count, device=self._device)
            lay_in_huge_pages([self._read])  # as the weights of a compiled step lie
        bench = Bench(self._device, lambda: None)
        return min(bench.medians([self._read[:count].sum], 0.2))
