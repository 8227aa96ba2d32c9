"""Contextual sparsity: an MLP that reads only the neurons that a token needs.

H: hidden features, I: neurons (the intermediate size), M: rows of x. A neuron is a row of ``gate`` and ``up``
``[I, H]`` and a column of ``down``, which is stored transposed, ``[I, H]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.runtime.contextual.mlp_weights import ContextualWeights
    from sparseflow.runtime.contextual.predictor import Predictor

__all__ = ["ContextualWeights", "Predictor"]

__getattr__, __dir__ = lazy.names(globals(), {"ContextualWeights": "mlp_weights", "Predictor": "predictor"})
