"""Checks for optional dependencies, with errors that name the extra to install."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sparseflow.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def new_figure(
    subject: str, width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty matplotlib figure without a window.

    Args:
        subject: what to draw, for the error.
        width: inches.
        height: inches.
        layout: how matplotlib places what is drawn; None leaves it where it was put.

    Raises:
        MissingDependencyError: it isn't installed; the error names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            subject, f"drawing needs matplotlib: {error}", install("plots")
        ) from None
    return Figure(figsize=(width, height), layout=layout)
