"""The slower tier as a safetensors file, whose rows are read as they are needed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from sparseflow.errors import ArgumentError, TierError
from sparseflow.runtime.contextual.tiered.source import PER_NEURON, Outline
from sparseflow.runtime.contextual.weights import ContextualWeights

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I8": torch.int8}
MOST_AT_ONCE = 512  # buffers of one read; POSIX allows 1024


class FileWeights:
    """Weights in a file that `save` wrote, for a cache on the CPU.

    The system's page cache holds of the file what memory is left for. Rows are read rather than mapped: a
    mapped page that can't be read would end the process, a read says so.

    Args:
        path: of the file.

    Raises:
        TierError: it can't be read, or is no such file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 - kept as long as the object
            self._read_header()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._failed(f"can't be opened as an MLP's weights: {error!r}") from error

    def _failed(self, what: str) -> TierError:
        return TierError(str(self._path), what, "write it again with FileWeights.save(weights, path)")

    def _read_header(self) -> None:
        length = int.from_bytes(self._file.read(8), "little")
        if length > os.fstat(self._file.fileno()).st_size:
            raise ValueError("no safetensors file")
        header: dict[str, Any] = json.loads(self._file.read(length))
        activation = header.pop("__metadata__")["activation"]
        self._starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}
        rows: dict[str, tuple[int, torch.dtype]] = {}
        for name in PER_NEURON:
            if name in header:
                width = header[name]["shape"][1] if len(header[name]["shape"]) == 2 else 1
                rows[name] = (width, DTYPES[header[name]["dtype"]])
        self.outline = Outline(header["up"]["shape"][0], rows, self._down_bias(header), activation)
        self.in_place: ContextualWeights | None = None

    def _down_bias(self, header: Mapping[str, Any]) -> Tensor | None:
        if "down_bias" not in header:
            return None
        entry = header["down_bias"]
        bias = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        raw: Any = bias.view(torch.uint8).numpy()  # numpy's annotations don't say that it is a buffer
        self._read([memoryview(raw)], self._starts["down_bias"])
        return bias

    @staticmethod
    def save(weights: ContextualWeights, path: str | Path) -> None:
        """Write weights as a file that this class reads.

        Raises:
            TierError: it can't be written.
        """
        names = (*PER_NEURON, "down_bias")
        tensors = {name: t.cpu() for name in names if (t := getattr(weights, name)) is not None}
        try:
            safetensors.torch.save_file(tensors, path, {"activation": weights.activation})
        except (OSError, safetensors.SafetensorError) as error:
            raise TierError(str(path), f"can't be written: {error}", "choose another path") from error

    def require_reachable(self, device: torch.device) -> None:
        """Only the CPU reads files.

        Raises:
            ArgumentError: another device.
        """
        if device.type != "cpu":
            raise ArgumentError(
                "device",
                f"expected the CPU for weights in a file, got {device}",
                "read them into HostWeights",
            )

    def fetch(self, into: Mapping[str, Tensor], neurons: Tensor, slots: Tensor, count: Tensor) -> None:
        """As `Source.fetch`; neighbours in the file are read together."""
        listed, places = (t[: int(count)].tolist() for t in (neurons, slots))
        for name, (width, dtype) in self.outline.rows.items():
            row_bytes = width * dtype.itemsize
            rows = into[name].view(torch.uint8).numpy()
            for first, last in _runs(listed):
                buffers = [memoryview(rows[slot]) for slot in places[first:last]]
                self._read(buffers, self._starts[name] + listed[first] * row_bytes)

    def _read(self, buffers: list[memoryview], offset: int) -> None:
        """Fill them from the file, one after the other."""
        try:
            wanted, got = sum(map(len, buffers)), os.preadv(self._file.fileno(), buffers, offset)
            while 0 < got < wanted:
                buffers = _behind(buffers, got)
                offset, wanted = offset + got, wanted - got
                got = os.preadv(self._file.fileno(), buffers, offset)
        except OSError as error:
            raise self._failed(f"can't be read: {error}") from error
        if got < wanted:
            raise self._failed(f"ends at byte {offset + got}, {wanted - got} short")


def _runs(neurons: list[int]) -> Iterator[tuple[int, int]]:
    """The stretches of consecutive numbers in an ascending list: where each begins and ends."""
    first = 0
    for at in range(1, len(neurons) + 1):
        if at == len(neurons) or neurons[at] != neurons[at - 1] + 1 or at - first == MOST_AT_ONCE:
            yield first, at
            first = at


def _behind(buffers: list[memoryview], filled: int) -> list[memoryview]:
    """What a read that filled so many bytes left empty."""
    left = list(buffers)
    while filled >= len(left[0]):
        filled -= len(left.pop(0))
    return [left[0][filled:], *left[1:]]
