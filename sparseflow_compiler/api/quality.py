"""Warnings about the weights of a compiled model."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from sparseflow.errors import QualityWarning, UnprunedWarning
from sparseflow.reports.unpruned import CALL
from sparseflow.support.user_warnings import warn

if TYPE_CHECKING:
    from sparseflow.compiler.bank import WeightBank
    from sparseflow.compiler.build import Program


def warn_of_weights(model: str, program: Program, bank: WeightBank, *, first: bool) -> bool:
    """Warn that no weight is 2:4, or of the quality that pruning by magnitude cost.

    Args:
        model: the name of the model's class.
        program: the program that was just compiled.
        bank: its weights.
        first: whether it is the first program, which shows what holds for the whole model.

    Returns:
        Whether a warning was given; one is enough.
    """
    if errors := bank.pruning_errors():
        _warn_of_magnitude(model, errors)
    elif first and program.phases.unpruned:
        _warn_of_dense_weights(model)
    else:
        return False
    return True


def _warn_of_magnitude(model: str, errors: list[float]) -> None:
    layers = f"{len(errors)} layers" if len(errors) > 1 else "a layer"
    warn(
        f"prune='magnitude' changed the weights of {layers} of {model}, with a mean relative error of "
        f"{statistics.mean(errors):.2f}, which costs quality: {CALL} and then sf.compile(model) cost less",
        QualityWarning,
    )


def _warn_of_dense_weights(model: str) -> None:
    warn(
        f"no weight of {model} is 2:4, so all of its layers run densely: prune it first, {CALL}, or compile "
        "with prune='magnitude', which costs more quality; the report says what that would gain",
        UnprunedWarning,
    )
