"""`sparseflow info`."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer

from sparseflow.cli.answer import answer
from sparseflow.support.version import __version__

if TYPE_CHECKING:
    from sparseflow.runtime.kernels import Kernel


@dataclass(frozen=True)
class Finding:
    """Something that the machine has or lacks.

    Attributes:
        name: its name.
        ok: whether it can be used.
        text: version and place, or why not.
    """

    name: str
    ok: bool
    text: str


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Show what this machine can run, and why not the rest."""
    findings = look()
    answer([asdict(finding) for finding in findings], lambda width: _text(findings, width), as_json=as_json)


def _text(findings: Sequence[Finding], width: int) -> str:
    indent = 4 + max(len(finding.name) for finding in findings)
    lines = [
        f"{'✓' if finding.ok else '✗'} {finding.name:<{indent - 2}}{finding.text}" for finding in findings
    ]
    # On a narrow terminal a hanging indent as deep as the names would leave no room for the text.
    hanging = " " * (indent if width >= 2 * indent else 4)
    return "\n".join(
        textwrap.fill(line, max(width, 5), subsequent_indent=hanging, break_on_hyphens=False)
        for line in lines
    )


def look() -> list[Finding]:
    """Check everything; a failure is a finding too."""
    return [_found(name, find) for name, find in (_PARTS | _kernels()).items()]


def _found(name: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, find())
    except Exception as error:  # a broken installation can raise anything, which is the finding
        text = str(error).replace("\n", " ")
        return Finding(name, False, text if isinstance(error, Missing) else f"{type(error).__name__}: {text}")


class Missing(Exception):  # noqa: N818  # a finding, not an error
    """Something can't be used; the message says why."""


def _python() -> str:
    return f"{platform.python_version()} on {platform.platform()}"


def _torch() -> str:
    import torch

    return (
        f"{torch.__version__}, {torch.get_num_threads()} threads, CUDA {torch.version.cuda or 'not built in'}"
    )


def _torch_mlir() -> str:
    if importlib.util.find_spec("torch_mlir") is None:
        raise Missing("not installed: artifacts run, nothing compiles; pip install 'sparseflow[compiler]'")
    return metadata.version("torch-mlir")


def _native() -> str:
    from sparseflow.runtime import native

    native.load()
    return str(native.library_path())


def _cpu() -> str:
    from sparseflow.runtime.dispatch.cpu_identity import Machine

    here = Machine.here()
    return f"{here.cpu}, kernels for {here.isa}, {here.threads} threads"


def _gpu() -> str:
    import torch

    if torch.version.cuda is None:
        raise Missing("this torch was built without CUDA")
    if not torch.cuda.is_available():
        raise Missing("torch finds no CUDA device")
    return "; ".join(map(_gpu_line, range(torch.cuda.device_count())))


def _gpu_line(index: int) -> str:
    import torch

    found = torch.cuda.get_device_properties(index)
    return f"cuda:{index} {found.name}, sm_{found.major}{found.minor}, {found.total_memory / 2**30:.0f} GiB"


def _cuda_kernels() -> str:
    import torch

    _native()
    if not torch.ops.sparseflow.cuda_kernels_built():
        raise Missing("this build has none: it was built without nvcc, or for CPUs alone")
    return "built"


def _kernels() -> dict[str, Callable[[], str]]:
    """Return a check for each kernel of the registry."""
    from sparseflow.runtime.kernels import registry

    return {f"kernel {kernel.name}": functools.partial(_kernel, kernel) for kernel in registry.kernels()}


def _kernel(kernel: Kernel) -> str:
    if reason := kernel.unusable(kernel.device_type or "cpu"):
        raise Missing(reason)
    return f"{kernel.about}; {', '.join(kernel.dtypes)}"


def _cusparselt() -> str:
    from sparseflow.runtime import gpu
    from sparseflow.runtime.gpu.library import VARIABLE, candidate

    path = candidate()
    where = f"found by {VARIABLE}" if os.environ.get(VARIABLE) else "found in NVIDIA's wheel"
    if reason := gpu.unusable():
        raise Missing(reason if path is None else f"{reason} ({path}, {where})")
    return f"{gpu.version()}, {path}, {where}"


def _tables() -> str:
    from sparseflow.runtime.dispatch.store import cache_dir

    folder = cache_dir()
    return f"{folder}, {len(list(folder.glob('*.json')))} tables"


def _tuned() -> str:
    """Return the current GPU's tables: the user's, the shipped one, and those it borrows candidates from."""
    from sparseflow.runtime import gpu
    from sparseflow.runtime.tuning import GpuMachine, TunedTable
    from sparseflow.runtime.tuning.gpu_table import borrowed, trusted

    if reason := gpu.unusable():
        raise Missing(reason)
    machine = GpuMachine.here()
    own, shipped = TunedTable(machine), trusted(machine)
    quick = sum(point.effort == "quick" for point in own)
    found = [f"{len(own)} points measured here ({quick} by quick tuning)"] if len(own) else []
    found += [f"{len(shipped)} points shipped ({shipped.path.name})"] if shipped else []
    lent = [f"{table.path.name} of {table.machine.gpu}" for table in borrowed(machine)]
    found += [f"candidates borrowed from {', '.join(lent)}"] if lent and not shipped else []
    return f"{machine.gpu}: {'; '.join(found) or 'none: the first compilation measures what it needs'}"


_PARTS: dict[str, Callable[[], str]] = {
    "sparseflow": lambda: __version__,
    "python": _python,
    "torch": _torch,
    "torch-mlir": _torch_mlir,
    "native library": _native,
    "CPU": _cpu,
    "GPU": _gpu,
    "CUDA kernels": _cuda_kernels,
    "cuSPARSELt": _cusparselt,
    "measurements": _tables,
    "tuned points": _tuned,
}
