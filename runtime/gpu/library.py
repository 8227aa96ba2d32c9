"""Finding and loading cuSPARSELt, and the reasons why it can't be used."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import torch

from sparseflow.errors import NativeLibraryError
from sparseflow.runtime import ops as _operators  # noqa: F401  registers torch.ops.sparseflow.*

VARIABLE = "SPARSEFLOW_CUSPARSELT"
WHEELS = "nvidia.cusparselt"
OLDEST_GPU = (8, 0)
INSTALL = "pip install 'nvidia-cusparselt-cu13>=0.10', or set SPARSEFLOW_CUSPARSELT to libcusparseLt.so.0"


def candidate() -> Path | None:
    """Return the library to load: what ``SPARSEFLOW_CUSPARSELT`` names, else that of NVIDIA's wheel."""
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    try:
        spec = importlib.util.find_spec(WHEELS)
    except ModuleNotFoundError:
        return None
    folders = spec.submodule_search_locations or () if spec else ()
    found = (Path(folder) / "lib" / "libcusparseLt.so.0" for folder in folders)
    return next((path for path in found if path.exists()), None)


def unusable(device: torch.device | int | None = None) -> str | None:
    """Return why cuSPARSELt can't be used on a device, or None if it can.

    It never raises, even if CUDA, the driver or the library is missing, too old or broken.

    Args:
        device: a CUDA device; the current one by default.

    Returns:
        A sentence for a report, or None.
    """
    if reason := _no_cuda():
        return reason
    given = torch.device("cuda", device) if isinstance(device, int) else torch.device(device or "cuda")
    if given.type != "cuda":
        return f"{given} is not a CUDA device"
    index = torch.cuda.current_device() if given.index is None else given.index
    if index >= (count := torch.cuda.device_count()):
        return f"there is no cuda:{index}, the CUDA devices are {count} in number"
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if capability < OLDEST_GPU:
        return "{} is sm_{}{}, and tensor cores for 2:4 begin with sm_{}{}".format(
            name, *capability, *OLDEST_GPU
        )
    try:
        return _unusable(index, os.environ.get(VARIABLE))
    except RuntimeError as error:
        return f"cuSPARSELt does not work on {name}: {_first_sentence(error)}"


def _no_cuda() -> str | None:
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    try:
        initialise: Callable[[], None] = torch.cuda.init  # untyped in torch
        initialise()
    except (RuntimeError, AssertionError) as error:
        return f"no CUDA device is available: {_first_sentence(error)}"
    return None


def _first_sentence(error: BaseException) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]


@functools.cache
def _unusable(index: int, variable: str | None) -> str | None:
    path = candidate()
    if path is None:
        return f"cuSPARSELt is not installed; {INSTALL}"
    if reason := torch.ops.sparseflow.cusparselt_open(str(path)):
        return f"{reason}; {INSTALL}"
    if not torch.ops.sparseflow.cuda_kernels_built():
        return "this build of SparseFlow has no CUDA kernels, for want of nvcc, or built for CPUs alone"
    return _foreign_layout(index)


def _foreign_layout(index: int) -> str | None:
    """Return how the library's layout of weights differs from ``runtime/csrc/cuda/layout.h``, or None."""
    generator = torch.Generator("cpu").manual_seed(0)
    for dtype in (torch.bfloat16, torch.int8):
        dense = torch.randint(1, 100, (128, 192), generator=generator, device="cpu").to(dtype)
        keep = torch.rand(128, 48, 4, generator=generator, device="cpu").topk(2).indices.sort().values
        values = dense.view(128, 48, 4).gather(2, keep).reshape(128, 96)
        nibbles = (keep[..., 0] | keep[..., 1] << 2).to(torch.uint8)
        positions = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
        pruned = (
            torch.zeros(128, 48, 4, dtype=dtype, device="cpu")
            .scatter_(2, keep, values.view(128, 48, 2))
            .view(128, 192)
        )
        device = torch.device("cuda", index)
        ours = torch.ops.sparseflow.device_layout(values.to(device), positions.to(device), 192)
        theirs = torch.ops.sparseflow.cusparselt_compress(pruned.to(device))
        if not torch.equal(ours, theirs):
            return (
                f"cuSPARSELt {version()} lays out 2:4 weights on {torch.cuda.get_device_name(index)} in a "
                "way that SparseFlow doesn't know"
            )
    return None


def version() -> str:
    """Return the version of the loaded library, such as ``"0.10.0"``."""
    number = torch.ops.sparseflow.cusparselt_version()
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def require(device: torch.device | int | None = None) -> None:
    """Load cuSPARSELt for a device.

    Raises:
        NativeLibraryError: it can't be used; the message says why and what to do.
    """
    if reason := unusable(device):
        raise NativeLibraryError("sparseflow.runtime.gpu", reason, "layers run densely without it")
