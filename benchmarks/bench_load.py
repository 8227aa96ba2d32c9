"""What loading an artifact costs beside reading its bytes.

Usage: bench_load.py [--layers 32] [--turns 5] [--folder PATH] [--results FOLDER]

Llama-3-8B's decoder layers (32 take 16 GB of memory and 8 GB of disk to make), rows of random 2:4 weights in
bf16, packed and saved; then in turn: read every file of the artifact, load it, hash it by SHA-256 (as format
1 did), with the files in the page cache and, where it can be emptied for them, without. Writes load_cpu.json.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import hashlib
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _measure
import torch
from torch import nn

import sparseflow as sf
from sparseflow.runtime.pattern import prune_24

SHAPES = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
"""(N, K) of a layer's products: q, k, v merged, o, gate and up merged, down."""
SIZES = sorted({k for _, k in SHAPES})
TARGET = 1.3


class Layers(nn.Module):
    """The products of decoder layers, one after the other, and nothing between them."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        some = prune_24(torch.randn(1 << 15, 2048, dtype=torch.bfloat16))  # divides every K
        self.layers = nn.ModuleList(self._layer(some) for _ in range(layers))

    @staticmethod
    def _layer(some: torch.Tensor) -> nn.ModuleList:
        linears = nn.ModuleList()
        for n, k in SHAPES:
            linear = nn.Linear(k, n, bias=False, device="meta")
            rows = torch.randint(len(some), (n * k // some.shape[1],))
            linear.weight = nn.Parameter(some[rows].view(n, k), requires_grad=False)
            linears.append(linear)
        return linears

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Every product, of the input of its K."""
        linears = [module for module in self.layers.modules() if isinstance(module, nn.Linear)]
        return [linear(inputs[SIZES.index(linear.in_features)]) for linear in linears]


def sha256(folder: Path) -> None:
    """Hash every file of a folder as artifacts of version 1 did, in threads."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(_sha256, folder.iterdir()))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save(layers: int, folder: Path) -> None:
    """Write the artifact; dense weights are released as they are packed."""
    inputs = tuple(torch.randn(2, k, dtype=torch.bfloat16) for k in SIZES)
    model = Layers(layers).eval()
    options: dict[str, Any] = {"policy": "sparse", "prune": None, "inplace": True, "progress": False}
    sf.compile(model, inputs, **options).save(folder)


def read(folder: Path) -> None:
    """Read every byte of a folder's files into one buffer."""
    buffer = bytearray(8 << 20)
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def forget(folder: Path) -> bool:
    """Take a folder's files out of the page cache; whether that is so now."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return not any(map(cached, folder.iterdir()))


def cached(path: Path) -> bool:
    """Whether more than a hundredth of a file is in memory; also where the system doesn't tell."""
    mapped = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
    pages = torch.empty(-(-len(mapped) // mmap.PAGESIZE), dtype=torch.uint8)
    where, size, there = map(ctypes.c_size_t, (mapped.data_ptr(), len(mapped), pages.data_ptr()))
    failed: int = ctypes.CDLL(None).mincore(where, size, there)
    return bool(failed or (pages & 1).float().mean() > 0.01)


def measure(folder: Path, turns: int, *, cold: bool) -> dict[str, float]:
    """Median seconds of each side, taken in turn: by the clock, and of the processor."""
    sides: dict[str, Callable[[], Any]] = {
        "read": functools.partial(read, folder),
        "load": functools.partial(sf.load, folder),
        "sha256": lambda: sha256(folder),
    }
    seconds: dict[str, list[float]] = {f"{name}{kind}": [] for name in sides for kind in ("", "_cpu")}
    for turn in range(turns + 1):
        for name, side in sides.items():
            if cold:
                forget(folder)
            start, used = time.perf_counter(), time.process_time()
            side()
            if turn:  # the first fills the cache and imports
                seconds[name].append(time.perf_counter() - start)
                seconds[f"{name}_cpu"].append(time.process_time() - used)
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the artifact goes; its disk is what is measured")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        artifact = Path(folder) / "artifact"
        save(options.layers, artifact)
        size = sum(path.stat().st_size for path in artifact.iterdir())
        for cache in ("warm", "cold"):
            if cache == "cold" and not forget(artifact):
                print("the page cache can't be emptied here: no cold rows")
                continue
            found = measure(artifact, options.turns, cold=cache == "cold")
            ratio = found["load"] / found["read"]
            rows.append(
                {"cache": cache, "layers": options.layers, "bytes": size, **found, "ratio": ratio}
                | {
                    "ratio_cpu": found["load_cpu"] / found["read_cpu"],
                    "target": TARGET,
                    "met": ratio <= TARGET,
                }
            )
            print(rows[-1], flush=True)
    _measure.write("load_cpu", _measure.meta(_measure.cpu_name()), rows, options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
