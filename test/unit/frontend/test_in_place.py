"""In-place operators: replaced where that is safe, traced again where it is not, always equal to eager."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram


def fresh(x):
    y = x + 1
    y *= 2
    y.relu_()
    return y - 1


def used_before_and_after(x):
    y = x * 3
    before = y.sum()
    y.add_(before)
    return y, before, y + 1


def part_of_a_multiple_result(x):
    values, indices = x.topk(2)
    values /= values.sum()
    return values, indices


def through_a_view(x):
    y = x + 1
    z = y[0]
    y.mul_(2)
    return y, z


def on_a_view(x):
    y = x + 1
    y[0].mul_(2)
    return y


def through_an_implicit_alias(x):
    y = x + 1
    z = y.reshape(y.shape)
    y.mul_(2)
    return y, z


def of_an_implicit_alias(x):
    y = x.to(torch.float32)
    y.mul_(2)
    return y


def narrower_than_the_functional_result(x):
    y = (x * 2).to(torch.float16) + 0
    y.add_(x)
    return y


def on_the_input(x):
    x.add_(1)
    return x * 2


def on_the_input_twice(x):
    before = x * 3
    x.add_(1)
    between = x + before
    x.mul_(before)
    return between, x[0], x


def on_the_input_converted_to_what_it_is(x):
    y = x.to(torch.float32).to(x.device)
    y.mul_(x.shape[0])
    return y + 1


def on_the_input_after_a_view(x):
    y = x[0]
    x.add_(1)
    return y


def on_the_input_between_views(x):
    y = x.add_(1)[0]
    x.mul_(2)
    return y, x


def indexed(x):
    y = torch.zeros_like(x)
    y[torch.tensor([0, 2])] = 1.5
    y.masked_fill_(x > 0, -1)
    return y


def filled_in_a_loop(x):
    state, states = x.new_zeros(x.shape[0]), torch.zeros_like(x)
    for t in range(x.shape[1]):
        state = 0.5 * state + x[:, t]
        states[:, t] = state
    return states, states.flatten()


def parts_of_parts(x):
    y = torch.zeros(x.shape[0], 6, dtype=torch.float64)
    y[1:, 1:5] = x[1:]  # cast
    before = y + 0
    y[0] += 2
    y[:, 2].mul_(y[:, 1])
    y[1, ::2] = y[1, 1::2]
    y[-1].fill_(x.shape[0])
    return y, before, y[0]


def a_view_is_read_before_the_next_write(x):
    y = x + 1
    first = y[0]
    y[1] = first
    read = y[1] * 2
    y[0] = read
    return y, read


def a_view_is_read_after_the_next_write(x):
    y = x + 1
    first, whole = y[0], y[:]
    y[1] = 3
    first += 1
    return y, first, whole


def two_that_are_filled_from_each_other(x):
    y, z = torch.zeros_like(x), torch.ones_like(x)
    for t in range(3):
        y[:, t] = z[:, t] + x[:, 0]
        z[:, t + 1] = y[:, t]
        z[0] = y[1]
        doubled = y[2].add_(1) * 2
        y[1] = doubled
    return y, z


def viewed_otherwise_before_a_write(x):
    y = x + 1
    turned = y.t()
    y[0] = 2
    return y, turned


def written_otherwise_after_a_write(x):
    y = x + 1
    y[0] = 2
    y.t()[0].mul_(3)
    return y


def kept_by_the_writes_result(x):
    y = x + 1
    first = y[0].mul_(2)
    y[1] = 5
    return y, first


FUNCTIONAL = [
    on_a_view,
    filled_in_a_loop,
    parts_of_parts,
    two_that_are_filled_from_each_other,
    a_view_is_read_before_the_next_write,
    fresh,
    used_before_and_after,
    part_of_a_multiple_result,
    on_the_input,
    on_the_input_converted_to_what_it_is,
    indexed,
]
OTHERS = [
    through_a_view,
    a_view_is_read_after_the_next_write,
    viewed_otherwise_before_a_write,
    written_otherwise_after_a_write,
    kept_by_the_writes_result,
    through_an_implicit_alias,
    of_an_implicit_alias,
    narrower_than_the_functional_result,
    on_the_input_twice,
    on_the_input_after_a_view,
    on_the_input_between_views,
]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("function", [*FUNCTIONAL, *OTHERS], ids=lambda f: f.__name__)
def test_in_place_operators_compute_what_eager_computes(function, round_trip):
    round_trip(Function(function).eval(), *(((torch.randn(n, 4),), {}) for n in (3, 5)))


@pytest.mark.parametrize("function", FUNCTIONAL, ids=lambda f: f.__name__)
def test_what_is_as_well_functional_is_not_traced_again(function, round_trip, monkeypatch):
    def refuse(self, table):
        raise AssertionError("traced again")

    monkeypatch.setattr(ExportedProgram, "run_decompositions", refuse)
    round_trip(Function(function).eval(), ((torch.randn(3, 4),), {}))
