"""The first line of a report of layers that are not 2:4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CALL = 'sf.prune(model, "sparsegpt", calibration=batches)'
"""What prunes best."""


def unpruned_line(model: Mapping[str, Any]) -> str | None:
    """Say that no weight is 2:4, what prunes, and what that would gain; or how many are 2:4.

    Args:
        model: `Report.model`.

    Returns:
        A sentence, or None where each layer is 2:4 that can be.
    """
    found = model.get("if_pruned")
    if not found:
        return None
    name, layers, two_four = model.get("name", "the model"), found["layers"], found["two_four"]
    if two_four:
        left = layers - two_four
        return (
            f"{two_four} of the {layers} layers of {name} that can be pruned are 2:4; the other {left} "
            f"{'run' if left > 1 else 'runs'} densely"
        )
    which = (
        f"its {layers} layers that can be pruned run" if layers > 1 else "the layer that can be pruned runs"
    )
    return f"no weight of {name} is 2:4, so {which} densely: {CALL} prunes; {_gain(found)}"


def _gain(found: Mapping[str, Any]) -> str:
    layers, known = found["layers"], found["known"]
    if not found["expected"]:
        return "what that gains was not measured on this machine yet"
    gains = ", ".join(f"M={m} {gain:.2f}×" for m, gain in found["expected"].items())
    over = (
        "" if known == layers else f" over {known} of these layers; no table of this machine has the others"
    )
    return f"expected after pruning: {gains}{over}"
