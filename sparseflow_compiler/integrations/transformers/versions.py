"""transformers itself, and the versions of it that SparseFlow was tested with."""

from __future__ import annotations

import functools
import re
import warnings
from importlib import metadata
from types import ModuleType

from sparseflow.errors import ArgumentError, UntestedVersionWarning

INSTALL = "pip install 'sparseflow[transformers]'"


def library(subject: str) -> ModuleType:
    """The transformers module, with one warning in a process where its version was not tested.

    Args:
        subject: what needs it, for the error.

    Raises:
        ArgumentError: transformers is missing or fails to import.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing(subject, error) from None
    warn_if_untested(str(transformers.__version__))
    found: ModuleType = transformers
    return found


def missing(subject: str, error: ImportError) -> ArgumentError:
    """The refusal where transformers, or what is needed of it, can't be imported."""
    return ArgumentError(subject, f"needs transformers {supported()}: {error}", INSTALL)


@functools.cache
def supported() -> str:
    """The range of versions that pyproject.toml has, such as ``<5.25,>=5.17``."""
    try:
        requirements = metadata.requires("sparseflow") or ()
    except metadata.PackageNotFoundError:
        return ""
    wanted = (re.fullmatch(r"transformers\s*([<>=!~][^;]*?)\s*;.*", text) for text in requirements)
    return next((found[1] for found in wanted if found), "")


@functools.cache
def warn_if_untested(version: str) -> None:
    """Warn, once in a process, of a version outside the supported range."""
    if outside := _outside(version, supported()):
        warnings.warn(
            f"transformers {version} is {outside} than what SparseFlow was tested with ({supported()}); "
            f"if something fails, {INSTALL}",
            UntestedVersionWarning,
            stacklevel=2,
        )


def _outside(version: str, bounds: str) -> str | None:
    """In which direction a version leaves a range of ``>=`` and ``<``, None where it is inside."""
    found = _release(version)
    for operator, bound in re.findall(r"(>=|<)\s*([\d.]+)", bounds):
        if operator == ">=" and found < _release(bound):
            return "older"
        if operator == "<" and found >= _release(bound):
            return "newer"
    return None


def _release(version: str) -> tuple[int, ...]:
    digits = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, digits[0].split("."))) if digits else ()
