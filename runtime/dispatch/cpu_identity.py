"""What a measured time depends on besides the layer: processor, instruction set, threads, software."""

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
# Where the system doesn't tell: more than most processors have, so rotation still leaves the caches.
DEFAULT_CACHE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Machine(TableKey):
    """The key of a dispatch table: measurements hold only where all of it is equal."""

    cpu: str
    isa: str
    threads: int
    torch: str
    library: str

    @classmethod
    def here(cls) -> Machine:
        """This machine, with the thread count that torch has now."""
        isa: str = torch.ops.sparseflow.cpu_isa()
        return cls(cpu_model(), isa, torch.get_num_threads(), str(torch.__version__), library_digest())


@functools.cache
def cpu_model() -> str:
    """The processor's name with family and model: hypervisors often leave only "AMD EPYC"."""
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
    """A hash of the native library: other kernels have other times."""
    return hashlib.sha256(native.library_path().read_bytes()).hexdigest()[:16]


@functools.cache
def last_level_cache_bytes() -> int:
    """The largest cache of the first core, which is what a rotation of weights has to exceed."""
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
