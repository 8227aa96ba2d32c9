"""`statistics.Watch`: runs end when all layers have been seen, and only then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseflow.pruning.linear_layers import find_layers
from sparseflow.pruning.statistics import Watch, gather


class Block(nn.Module):
    """Calls `first` as often as an input says, then `second` if it isn't 0, then counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.ends = 0

    def forward(self, x, times):
        for _ in range(times):
            x = self.first(x)
        if times:
            x = self.second(x)
        self.ends += 1
        return x


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block().eval()


def seen(block, names, times):
    """Return the names of the layers as they were seen in calls that reach `first` so many times."""
    found = []
    layers = [layer for layer in find_layers(block, ()) if layer.name in names]
    watch = Watch(layers, lambda layer, x: found.append(layer.name))
    for count in times:
        watch.run(lambda count=count: block(torch.randn(2, 4), count))
    return found


def test_runs_after_the_first_end_with_the_last_layer(block):
    assert seen(block, ["first"], [1, 1, 1]) == ["first"] * 3
    assert block.ends == 1
    assert seen(block, ["first", "second"], [1, 1]) == ["first", "second"] * 2
    assert block.ends == 2


@pytest.mark.parametrize("first", [0, 2])
def test_runs_go_to_their_ends_where_calls_depend_on_the_input(block, first):
    found = seen(block, ["first", "second"], [first, 1, 3, 0])
    assert found.count("first") == first + 1 + 3
    assert found.count("second") == (first > 0) + 1 + 1
    assert block.ends == 4


def test_an_error_of_the_model_is_raised(block):
    def fails():
        block(torch.randn(2, 4), 1)
        raise KeyError

    with pytest.raises(KeyError):
        Watch(find_layers(block, ()), lambda *_: None).run(fails)


def test_statistics_are_those_of_whole_runs(block):
    layers = find_layers(block, ())
    batches = [torch.randn(count, 4) for count in (3, 1, 5)]
    found = gather(layers[:1], lambda index: block(batches[index], 1), len(batches), gram=True)["first"]
    x = torch.cat(batches)
    assert found.rows == 9
    torch.testing.assert_close(found.norms(), torch.linalg.vector_norm(x, dim=0))
    torch.testing.assert_close(found.take_gram(), x.T @ x / 9)
    assert block.ends == 1
