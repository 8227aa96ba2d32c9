"""The GPU and software that a measured time holds for."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import subprocess
from pathlib import Path

from sparseflow.runtime.dispatch.store import TableKey

DRIVER = Path("/sys/module/nvidia/version")
_SMI = ("--query-gpu=driver_version", "--format=csv,noheader")


@dataclasses.dataclass(frozen=True)
class GpuMachine(TableKey):
    """The key of a table of tuned points.

    Attributes:
        gpu: the device's name.
        capability: the compute capability, such as ``"9.0"``.
        driver: the version of NVIDIA's driver, or the CUDA version if that is all that is known.
        cusparselt: the version of the library; algorithms have other ids in other versions.
        torch: torch's version, on which dense products depend.
    """

    gpu: str
    capability: str
    driver: str
    cusparselt: str
    torch: str

    @classmethod
    def here(cls, device: object = None) -> GpuMachine:
        """Return this machine.

        Args:
            device: a CUDA device, as torch accepts it; the current one by default.

        Raises:
            NativeLibraryError: there is no device, or cuSPARSELt can't be used on it; says why.
        """
        import torch

        from sparseflow.runtime.gpu import library

        index = device_index(device)
        library.require(index)
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        return cls(name, f"{major}.{minor}", driver_version(), library.version(), str(torch.__version__))

    def same_algorithms(self, other: GpuMachine) -> bool:
        """Return whether points tuned there hold here too, whatever the driver and torch."""
        return (self.gpu, self.capability, self.cusparselt) == (other.gpu, other.capability, other.cusparselt)

    def lends_to(self, other: GpuMachine) -> bool:
        """Return whether the other machine is another GPU on which the same algorithms may be fast."""
        same = (self.capability, self.cusparselt) == (other.capability, other.cusparselt)
        return same and self.gpu != other.gpu


def device_index(device: object = None) -> int | None:
    """Return the index of a device; None for no device, and for the current one if there is none."""
    import torch

    if isinstance(device, int):
        return device
    index = torch.device(str(device)).index if device is not None else None
    if index is None and torch.cuda.is_available():
        return torch.cuda.current_device()
    return index


@functools.cache
def driver_version() -> str:
    """Return the driver's version, such as "580.95.05", or "CUDA 13.0" if only that is known."""
    try:
        if text := DRIVER.read_text().strip():
            return text
    except (OSError, ValueError):
        pass
    return _from_smi() or _from_torch()


def _from_smi() -> str:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return ""
    try:
        done = subprocess.run([smi, *_SMI], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def _from_torch() -> str:
    import torch

    query = getattr(torch._C, "_cuda_getDriverVersion", None)
    number = query() if query and torch.cuda.is_available() else 0
    return f"CUDA {number // 1000}.{number % 1000 // 10}" if number else "unknown"
