"""Import transformers and warn about versions that SparseFlow was not tested with."""

from __future__ import annotations

import functools
import re
from importlib import metadata
from types import ModuleType

from sparseflow.errors import MissingDependencyError, UntestedVersionWarning
from sparseflow.support.extras import install
from sparseflow.support.releases import release
from sparseflow.support.user_warnings import warn

INSTALL = install("transformers")


def require_transformers(subject: str) -> ModuleType:
    """Return the transformers module; warn once in a process if its version is untested.

    Args:
        subject: what needs it, for the error.

    Raises:
        MissingDependencyError: transformers is missing or fails to import.
    """
    try:
        import transformers
    except ImportError as error:
        raise import_refusal(subject, error) from None
    warn_if_untested(str(transformers.__version__))
    found: ModuleType = transformers
    return found


def import_refusal(subject: str, error: ImportError) -> MissingDependencyError:
    """Return the error for a failed import of transformers or of a part of it."""
    return MissingDependencyError(subject, f"needs transformers {supported()}: {error}", INSTALL)


@functools.cache
def supported() -> str:
    """Return the supported range of versions from pyproject.toml, such as ``<5.25,>=5.17``."""
    try:
        requirements = metadata.requires("sparseflow") or ()
    except metadata.PackageNotFoundError:
        return ""
    wanted = (re.fullmatch(r"transformers\s*([<>=!~][^;]*?)\s*;.*", text) for text in requirements)
    return next((found[1] for found in wanted if found), "")


@functools.cache
def warn_if_untested(version: str) -> None:
    """Warn, once in a process, about a version outside the supported range."""
    if outside := _outside(version, supported()):
        warn(
            f"transformers {version} is {outside} than what SparseFlow was tested with ({supported()}); "
            f"if something fails, {INSTALL}",
            UntestedVersionWarning,
        )


def _outside(version: str, bounds: str) -> str | None:
    """Return "older" or "newer" for a version outside a range of ``>=`` and ``<``, None inside it."""
    found = release(version)
    for operator, bound in re.findall(r"(>=|<)\s*([\d.]+)", bounds):
        if operator == ">=" and found < release(bound):
            return "older"
        if operator == "<" and found >= release(bound):
            return "newer"
    return None
