"""The line of a report that says which layers are not 2:4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CALL = 'sf.prune(model, "sparsegpt", calibration=batches)'
"""The call that prunes with the least loss of quality."""


def unpruned_line(model: Mapping[str, Any]) -> str | None:
    """Return a sentence saying that no weight is 2:4, how to prune, and what that would gain.

    If only some layers aren't 2:4, it says how many are.

    Args:
        model: `Report.model`.

    Returns:
        The sentence, or None if every layer that can be 2:4 is.
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
