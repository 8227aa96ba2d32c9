"""What the optional dependencies are for, said where one is missing."""

from __future__ import annotations

from sparseflow.errors import MissingDependencyError


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
