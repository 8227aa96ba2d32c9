"""The pruning methods: what each needs of a layer's inputs, and which weights it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sparseflow.pruning.ria import ria
from sparseflow.pruning.sparsegpt import sparsegpt
from sparseflow.pruning.statistics import Statistics
from sparseflow.pruning.wanda import wanda
from sparseflow.runtime.pattern import Pattern

Needs = Literal["nothing", "norms", "gram"]


@dataclass(frozen=True)
class LayerInputs:
    """What is known of a layer that is to be pruned.

    Attributes:
        name: of the layer.
        statistics: of the inputs that reached it; None if none were gathered, and the method needs none.
        gram: ``XᵀX`` of them, ``[K, K]``; None if it wasn't gathered. A method may overwrite it.
        pattern: how many entries of how many are kept.
        damping: the option of `sparseflow.prune`.
        block: likewise.
    """

    name: str
    statistics: Statistics | None
    gram: Tensor | None
    pattern: Pattern
    damping: float
    block: int

    def norms(self) -> Tensor:
        """Return the L2 norm of each input feature, ``[K]``."""
        assert self.statistics is not None, "PruneOptions asks for calibration data"
        return self.statistics.norms()


@dataclass(frozen=True)
class PruningMethod:
    """A way to choose which weights of a layer stay.

    Attributes:
        needs: of the layer's inputs: nothing, the norm of each feature, or the Gram matrix.
        prune: takes a weight ``[N, K]`` and what is known of the layer; returns a new one of the pattern.
    """

    needs: Needs
    prune: Callable[[Tensor, LayerInputs], Tensor]


def _magnitude(weight: Tensor, inputs: LayerInputs) -> Tensor:
    return inputs.pattern.prune(weight, name=f"layer {inputs.name}")


def _wanda(weight: Tensor, inputs: LayerInputs) -> Tensor:
    return wanda(weight, inputs.norms(), inputs.pattern)


def _ria(weight: Tensor, inputs: LayerInputs) -> Tensor:
    return ria(weight, inputs.norms(), inputs.pattern)


def _sparsegpt(weight: Tensor, inputs: LayerInputs) -> Tensor:
    if inputs.gram is None:
        return _magnitude(weight, inputs)
    return sparsegpt(
        weight,
        inputs.gram,
        pattern=inputs.pattern,
        damping=inputs.damping,
        block=inputs.block,
        name=inputs.name,
    )


METHODS: dict[str, PruningMethod] = {
    "magnitude": PruningMethod("nothing", _magnitude),
    "wanda": PruningMethod("norms", _wanda),
    "ria": PruningMethod("norms", _ria),
    "sparsegpt": PruningMethod("gram", _sparsegpt),
}
"""By the name that `sparseflow.prune` takes."""
