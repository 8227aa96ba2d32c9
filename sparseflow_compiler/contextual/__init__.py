"""Contextual sparsity: train, save and evaluate predictors of the neurons that a token needs.

H: hidden features, I: neurons (the intermediate size) of an MLP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.contextual.model_mlps import ModelMlp, find_model_mlps
    from sparseflow.contextual.predictors import Figures, MlpPredictor, Predictors
    from sparseflow.contextual.training import train_predictor

__all__ = ["Figures", "MlpPredictor", "ModelMlp", "Predictors", "find_model_mlps", "train_predictor"]

_MODULES = {
    "Figures": "predictors",
    "MlpPredictor": "predictors",
    "ModelMlp": "model_mlps",
    "Predictors": "predictors",
    "find_model_mlps": "model_mlps",
    "train_predictor": "training",
}

__getattr__, __dir__ = lazy.names(globals(), _MODULES)
