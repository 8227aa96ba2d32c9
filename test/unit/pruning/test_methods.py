"""A pruning method is a line of the table: one that is added is used and checked as the others are."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.pruning.methods import METHODS, PruningMethod
from sparseflow.pruning.prune_options import Method


def last_two(weight, inputs):
    """Keep the last two of each four."""
    return weight * torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=weight.dtype).repeat(weight.shape[1] // 4)


@pytest.fixture(params=["nothing", "norms", "gram"])
def needs(request, monkeypatch):
    def keep(weight, inputs):
        assert inputs.statistics is None or inputs.statistics.rows == 3 * 5
        assert (inputs.gram is not None) is (request.param == "gram")
        return last_two(weight, inputs)

    monkeypatch.setitem(METHODS, "last-two", PruningMethod(request.param, keep))
    return request.param


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)).eval()


def test_a_method_of_ones_own_prunes(needs):
    pruned, dense = model(), model()
    report = sf.prune(pruned, "last-two", [torch.randn(5, 16) for _ in range(3)], progress=False)
    assert [layer.method for layer in report.layers] == ["last-two"] * 2
    for one, other in zip(pruned[::2], dense[::2], strict=True):
        torch.testing.assert_close(one.weight, last_two(other.weight, None))


def test_it_says_whether_it_needs_data(needs):
    if needs != "nothing":
        with pytest.raises(ArgumentError, match="needs calibration data"):
            sf.prune(model(), "last-two", progress=False)
        return
    pruned = model()
    assert [layer.method for layer in sf.prune(pruned, "last-two", progress=False).layers] == ["last-two"] * 2
    torch.testing.assert_close(pruned[0].weight, last_two(model()[0].weight, None))


def test_an_unknown_one_is_refused_with_all_there_are():
    with pytest.raises(ArgumentError, match="'magnitude', 'wanda', 'ria', 'sparsegpt'"):
        sf.prune(model(), "last-two", progress=False)


def test_the_type_of_the_argument_names_the_shipped_ones():
    assert get_args(Method) == tuple(METHODS)
