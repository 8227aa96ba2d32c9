"""What the optional dependencies are for, said where one is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_compiler(subject: str) -> None:
    """Refuse to compile without torch-mlir, which running what was saved does without.

    Args:
        subject: what needs it.

    Raises:
        MissingDependencyError: names the extra to install.
    """
    try:
        import torch_mlir  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            subject, f"compiling needs torch-mlir: {error}", 'pip install "sparseflow[compiler]"'
        ) from None


def new_figure(subject: str, width: float, height: float) -> Figure:
    """Return an empty matplotlib figure that no window shows.

    Args:
        subject: what is to be drawn.
        width: inches.
        height: inches.

    Raises:
        MissingDependencyError: names the extra to install.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            subject, f"drawing needs matplotlib: {error}", 'pip install "sparseflow[plots]"'
        ) from None
    return Figure(figsize=(width, height), layout="constrained")
