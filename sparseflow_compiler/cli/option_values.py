"""Shared parsing of the commands' options: devices, dtypes, sizes, output files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    import torch

Dark = Annotated[
    bool,
    typer.Option(
        "--dark", help="Draw a picture on dark ground; .svg and .html follow their reader's setting."
    ),
]

DTYPES = ("float32", "bfloat16", "float16")


def device(name: str | None) -> torch.device:
    """Return a usable device by name; None: the GPU if there is one, else the CPU.

    Raises:
        ArgumentError: it can't be used here.
    """
    import torch

    found = named_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise _no_device(name, error) from None
    return found


def named_device(name: str) -> torch.device:
    """Return a device by name, even if this machine lacks it.

    Raises:
        ArgumentError: it is neither a CPU nor a CUDA device.
    """
    import torch

    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name, error) from None
    if found.type not in ("cpu", "cuda"):
        raise ArgumentError(f"--device {name}", "can't be used: there are kernels for cpu and cuda only")
    return found


def _no_device(name: str | None, error: Exception) -> ArgumentError:
    reason = str(error).splitlines()[0]
    return ArgumentError(f"--device {name}", f"can't be used: {reason}", "try --device cpu")


def dtype(name: str, allowed: Sequence[str] = DTYPES) -> torch.dtype:
    """Return a dtype by name.

    Raises:
        ArgumentError: it is not among those allowed.
    """
    if name not in allowed:
        raise ArgumentError(f"--dtype {name}", f"must be one of {', '.join(allowed)}")
    import torch

    found: torch.dtype = getattr(torch, name)
    return found


def shape(option: str, text: str) -> tuple[int, int]:
    """Parse N and K written like ``4096x14336``.

    Args:
        option: the option's name, for the error.
        text: the value.

    Raises:
        ArgumentError: it is not of that form, or a size is 0.
    """
    n, k = sizes(option, text, "NxK")
    return n, k


def sizes(option: str, text: str, form: str) -> tuple[int, ...]:
    """Parse sizes written like ``4096x14336``.

    Args:
        option: the option's name, for the error.
        text: the value.
        form: the expected sizes, by name: ``"NxK"``.

    Raises:
        ArgumentError: it is not of that form, or a size is 0.
    """
    found = re.fullmatch(r"\d{1,9}([x×]\d{1,9})*", text, re.ASCII)
    numbers = tuple(map(int, re.split("[x×]", text))) if found else ()
    if len(numbers) != len(form.split("x")) or not all(numbers):
        example = "x".join(["4096", "4096", "14336"][-len(form.split("x")) :])
        raise ArgumentError(
            f"{option} {text}", f"is not of the form {form}", f"write for example {option} {example}"
        )
    return numbers


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Parse positive numbers written like ``1,512``.

    Args:
        option: the option's name, for the error.
        text: the value.

    Raises:
        ArgumentError: it is not of that form, or a number is 0.
    """
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text, re.ASCII):
        raise ArgumentError(f"{option} {text}", "is not numbers with commas", f"write {option} 1,512")
    found = tuple(map(int, text.split(",")))
    require_positive(option, found)
    return found


def require_positive(option: str, values: Iterable[int]) -> None:
    """Refuse numbers below 1.

    Raises:
        ArgumentError: there is one; the error names it.
    """
    for value in values:
        if value < 1:
            raise ArgumentError(f"{option} {value}", "must be at least 1")


def require_folder(file: Path | None) -> None:
    """Check early that a file can be written.

    Raises:
        ArgumentError: its folder doesn't exist, or it is a folder itself.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise ArgumentError(f"file {file}", f"there is no folder {file.parent}", "make it first")
    if file is not None and file.is_dir():
        raise ArgumentError(f"file {file}", "is a folder", "name a file")
