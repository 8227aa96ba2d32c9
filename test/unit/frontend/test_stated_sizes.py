"""Sizes that a cache states as numbers are constants of a program; batch and prompt stay free."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import transformers as tf
import zoo
from torch import Tensor, nn

from sparseflow.frontend import capture
from sparseflow.frontend.stated_sizes import stated
from sparseflow.integrations.transformers.argument_names import with_cache
from sparseflow.integrations.transformers.static_caches import whole_cache
from sparseflow.runtime.calling.structure import flatten


@dataclass
class Held:
    """A tensor, and perhaps its width, by other attributes."""

    before: Tensor
    tensor: Tensor
    width: int
    length: int


def places(*held: object) -> set[int]:
    return set(stated(flatten(((torch.ones(2, 5), *held), {}))))


@pytest.mark.parametrize(
    ("width", "length", "found"),
    [(5, 7, {2}), (5, 8, set()), (7, 5, {2}), (True, 7, set())],
    ids=["both", "one", "in any order", "a bool is no size"],
)
def test_all_sizes_but_the_first_have_to_be_stated(width: int, length: int, found: set[int]) -> None:
    assert places(Held(torch.ones(3), torch.ones(2, 7, 5), width, length)) == found


def test_places_count_over_lists_and_objects() -> None:
    first = Held(torch.ones(3), torch.ones(2, 9, 5), 5, 7)
    second = Held(torch.ones(3), torch.ones(2, 7, 5), 5, 7)
    assert places([first, {"a": second}]) == {4}
    assert places({"a": torch.ones(5, 5), "width": 5}) == set()  # a dict's numbers are nobody's sizes


def static_call(model: nn.Module, batch: int, length: int) -> dict[str, object]:
    cache = whole_cache(model, 16, batch)
    return {"input_ids": zoo.tokens(batch, length), **with_cache(model, cache)}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_program_over_a_static_cache_takes_any_batch_and_prompt(name: str) -> None:
    model = zoo.text_model(name)
    captured = capture(model, (), static_call(model, 2, 6))
    for batch, length in ((2, 6), (5, 9), *((batch, 2) for batch in zoo.ONE)):
        assert captured.accepts((), static_call(model, batch, length)) is None
    assert captured.accepts((), static_call(model, 2, 1)) is not None  # another path of the model


def test_the_sizes_of_a_growing_cache_stay_free() -> None:
    model = zoo.text_model("llama")
    cache = tf.DynamicCache(config=model.config)
    with torch.no_grad():
        model(zoo.tokens(2, 4), **{zoo.CACHE: cache})
    assert not stated(flatten(((), {"cache": cache})))
