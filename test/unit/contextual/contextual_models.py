"""Models and predictors that the tests of contextual compilation share."""

import torch
from torch import nn

from sparseflow.contextual import MlpPredictor, Predictors, find_model_mlps
from sparseflow.runtime.contextual import Predictor
from sparseflow.runtime.contextual.portable import contextual_scores, contextual_select


def random_predictors(mlps, rate=0.5, rank=4, dtype=torch.float32):
    made = {}
    for mlp in mlps:
        neurons, hidden = mlp.sizes
        a, b = torch.randn(rank, hidden, dtype=dtype), torch.randn(neurons, rank, dtype=dtype)
        k = max(1, round(rate * neurons))
        made[mlp.name] = MlpPredictor(Predictor(a, b, torch.randn(neurons), "top_k", k), rate)
    return Predictors(made)


def masked(model, mlps, predictors):
    """The model with the neurons that no row of the call selects set to zero before down reads them."""
    handles, lists = [], {}
    for mlp in mlps:
        predictor = predictors[mlp.name].predictor

        def select(module, args, name=mlp.name, predictor=predictor):
            scores = contextual_scores(args[0], *predictor.operands)
            neurons, count = contextual_select(scores, predictor.rule, predictor.parameter)
            lists[name] = neurons[: int(count)].long()

        def silence(module, args, name=mlp.name):
            keep = torch.zeros(args[0].shape[-1], dtype=torch.bool)
            keep[lists[name]] = True
            return (args[0] * keep,)

        handles.append(mlp.module.register_forward_pre_hook(select))
        handles.append(mlp.down_layer.module.register_forward_pre_hook(silence))
    return handles


def first(output):
    return output[0] if isinstance(output, tuple) else next(iter(output.values()))


class Plain(nn.Module):
    def __init__(self, hidden=16, neurons=48, out=16):
        super().__init__()
        self.up, self.down = nn.Linear(hidden, neurons), nn.Linear(neurons, out)
        self.head = nn.Linear(out, 32)

    def forward(self, x):
        return self.head(self.down(torch.relu(self.up(x)).square()))


def predictors_of(model, x, **more):
    return random_predictors(find_model_mlps(model, (x,), {}), **more)
