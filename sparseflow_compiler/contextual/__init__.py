"""Contextual sparsity: predictors of the neurons that a token needs, thresholds of the inputs it doesn't.

H: hidden features, I: neurons (the intermediate size) of an MLP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds
    from sparseflow.contextual.activations.calibrating import calibrate_activations
    from sparseflow.contextual.model_mlps import ModelMlp, find_model_mlps
    from sparseflow.contextual.predictors import Figures, MlpPredictor, Predictors
    from sparseflow.contextual.training import train_predictor

__all__ = [
    "ActivationThresholds",
    "Figures",
    "MlpPredictor",
    "ModelMlp",
    "Predictors",
    "calibrate_activations",
    "find_model_mlps",
    "train_predictor",
]

_MODULES = {
    "ActivationThresholds": "activations.activation_thresholds",
    "calibrate_activations": "activations.calibrating",
    "Figures": "predictors",
    "MlpPredictor": "predictors",
    "ModelMlp": "model_mlps",
    "Predictors": "predictors",
    "find_model_mlps": "model_mlps",
    "train_predictor": "training",
}

__getattr__, __dir__ = lazy.names(globals(), _MODULES)
