"""Checks for optional dependencies, with errors that name the extra to install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def new_figure(subject: str, width: float, height: float) -> Figure:
    """Return an empty matplotlib figure without a window.

    Args:
        subject: what to draw, for the error.
        width: inches.
        height: inches.

    Raises:
        MissingDependencyError: it isn't installed; the error names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            subject, f"drawing needs matplotlib: {error}", 'pip install "sparseflow[plots]"'
        ) from None
    return Figure(figsize=(width, height), layout="constrained")
