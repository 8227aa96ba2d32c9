"""New submodules start in training mode: only those that compute something else in it are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm
from torch.nn.utils import prune as torch_prune

import sparseflow as sf
from sparseflow.errors import InferenceOnlyError

WIDTH = 16


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if self.training else x


def sequence(module: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH)).eval()
    model.append(module)
    return model


@pytest.mark.parametrize(
    "module",
    [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Dropout(0.0), nn.GELU(), nn.LSTM(WIDTH, WIDTH)],
)
def test_a_new_submodule_that_does_the_same_is_compiled(module: nn.Module) -> None:
    model, x = sequence(module), torch.randn(3, WIDTH)
    torch.testing.assert_close(sf.compile(model)(x), model(x))


@pytest.mark.parametrize(
    "module",
    [nn.Dropout(0.5), nn.BatchNorm1d(WIDTH), nn.RReLU(), Noisy()],
)
def test_one_that_does_not_is_refused_by_name(module: nn.Module) -> None:
    for refused in (
        lambda model: sf.compile(model)(torch.randn(3, WIDTH)),
        lambda model: torch.compile(model, backend="sparseflow")(torch.randn(3, WIDTH)),
        lambda model: sf.prune(model, "wanda", [torch.randn(3, WIDTH)]),
    ):
        torch._dynamo.reset()
        with pytest.raises(InferenceOnlyError, match="1"):
            refused(sequence(copy.deepcopy(module)))


def test_an_lstm_with_dropout_is_refused() -> None:
    model = sequence(nn.LSTM(WIDTH, WIDTH, 2, dropout=0.5))
    with pytest.raises(InferenceOnlyError, match="1"):
        sf.compile(model)(torch.randn(3, WIDTH))


def parametrized(model: nn.Module) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    parametrize.register_parametrization(model[0], "weight", Doubled())


def masked(model: nn.Module) -> None:
    torch_prune.l1_unstructured(model[0], "weight", amount=0.5)


def normed(model: nn.Module) -> None:
    parametrizations.weight_norm(model[0])


def normed_as_before(model: nn.Module) -> None:
    with pytest.warns(FutureWarning):
        weight_norm(model[0])


def expanded(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(torch.randn(1, WIDTH).expand(WIDTH, WIDTH), requires_grad=False)


def sparsified(model: nn.Module) -> None:
    sf.nn.sparsify(model, prune="magnitude", policy="sparse")


CHANGES = [parametrized, masked, normed, normed_as_before, expanded, sparsified]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("prune", [None, "magnitude"])
def test_what_replaces_weights_is_compiled_as_it_runs(change, prune: str | None) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).eval(), torch.randn(3, WIDTH)
    change(model)
    with torch.no_grad():
        if prune is None:
            torch.testing.assert_close(sf.compile(model)(x), model(x))
        elif change is expanded:
            pruned = sf.prune_24(model[0].weight.contiguous())
            found = sf.compile(model, prune=prune, policy="sparse")(x)
            torch.testing.assert_close(found, torch.relu(x @ pruned.T + model[0].bias))
        else:  # their weights are computed at run time, or packed already
            torch.testing.assert_close(sf.compile(model, prune=prune, policy="sparse")(x), model(x))
    if change is sparsified:
        sf.prune(model, "wanda", [x])
