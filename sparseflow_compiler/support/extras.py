"""Checks for optional dependencies, with errors that name the extra to install."""

from __future__ import annotations

from sparseflow.errors import MissingDependencyError


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
            subject, f"compiling needs torch-mlir: {error}", 'pip install "sparseflow[compiler]"'
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
            subject, f"drawing needs matplotlib: {error}", 'pip install "sparseflow[plots]"'
        ) from None
