"""The machine that a measured time holds for: processor, instruction set, threads and software."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
import re
from pathlib import Path

import torch

from sparseflow.runtime import native, ops  # noqa: F401 - ops registers cpu_isa
from sparseflow.runtime.dispatch.store import TableKey

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Used if the system doesn't report a size: larger than most caches, so that rotating weights exceed them.
DEFAULT_CACHE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Machine(TableKey):
    """The key of a dispatch table; measurements hold only where all fields are equal."""

    cpu: str
    isa: str
    threads: int
    torch: str
    library: str

    @classmethod
    def here(cls) -> Machine:
        """Return this machine, with torch's current number of threads."""
        isa: str = torch.ops.sparseflow.cpu_isa()
        return cls(cpu_model(), isa, torch.get_num_threads(), str(torch.__version__), library_digest())


@functools.cache
def cpu_model() -> str:
    """Return the processor's name with family and model, as hypervisors often report only "AMD EPYC"."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


@functools.cache
def library_digest() -> str:
    """Return a hash of the native library, because other kernels have other times."""
    return hashlib.sha256(native.library_path().read_bytes()).hexdigest()[:16]


@functools.cache
def last_level_cache_bytes() -> int:
    """Return the size of the first core's largest cache, which rotating weights must exceed."""
    sizes = [_cache_bytes(path) for path in CACHES.glob("index*/size")]
    return max(sizes, default=0) or DEFAULT_CACHE_BYTES


def _cache_bytes(path: Path) -> int:
    try:
        match = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip())
    except OSError:
        return 0
    if match is None:
        return 0
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
