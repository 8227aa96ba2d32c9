"""Checks for optional dependencies, with errors that name the extra to install."""

from __future__ import annotations

from sparseflow.errors import MissingDependencyError

EXTRAS = {
    "matplotlib": "plots",
    "peft": "peft",
    "torch_mlir": "compiler",
    "transformers": "transformers",
    "vllm": "vllm",
}
"""The extra of pyproject.toml that installs a package, by the name that is imported."""


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "sparseflow[{extra}]"'


def refusal(subject: str, error: ImportError) -> MissingDependencyError | None:
    """Return the error that names the extra for a failed import; None if the package is of no extra.

    Args:
        subject: what needs the package.
        error: what Python raised.
    """
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS or isinstance(error, MissingDependencyError):
        return None
    return MissingDependencyError(subject, f"needs {package}: {error}", install(EXTRAS[package]))


def require_compiler(subject: str) -> None:
    """Refuse to compile without torch-mlir, which saved models don't need.

    Args:
        subject: what needs it, for the error.

    Raises:
        MissingDependencyError: it isn't installed; the error names the extra.
    """
    try:
        import torch_mlir  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            subject, f"compiling needs torch-mlir: {error}", install("compiler")
        ) from None


def require_plots(subject: str) -> None:
    """Refuse to draw without matplotlib.

    Args:
        subject: what to draw, for the error.

    Raises:
        MissingDependencyError: it isn't installed; the error names the extra.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            subject, f"drawing needs matplotlib: {error}", install("plots")
        ) from None
