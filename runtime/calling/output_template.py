"""Rebuild the output of a repeated call without torch's pytrees, as the call had it before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from sparseflow.runtime.calling.structure import ATOMS


class Sources(NamedTuple):
    """What an output is made of.

    Attributes:
        results: of the program.
        values: the arguments of the call, in the order in which it passes them.
        leaves: the tensors of the call.
    """

    results: Sequence[object]
    values: Sequence[object]
    leaves: Sequence[object]


Build = Callable[[Sources], Any]


class UnknownOutputError(Exception):
    """A part of an output is of a kind that only torch's pytrees can rebuild."""


def output_template(output: object, sources: Sources) -> Build:
    """Return what makes the outputs of calls that are equal but for the values of tensors.

    Containers are made anew for each call. An ordered dict with its entries as attributes, as transformers'
    outputs are, gets both without its constructor, which would derive the ones from the others again.

    Args:
        output: of the first call.
        sources: of the first call.

    Raises:
        UnknownOutputError: the output has other parts.
    """
    places: dict[int, tuple[int, int]] = {}
    for kind in (2, 1, 0):  # a tensor that is several of them is a result
        places.update((id(source), (kind, i)) for i, source in enumerate(sources[kind]))
    return _part(output, places)


def _part(value: object, places: Mapping[int, tuple[int, int]]) -> Build:
    kind = type(value)
    if kind in ATOMS:
        return lambda _: value
    if id(value) in places:
        source, place = places[id(value)]
        return lambda sources: sources[source][place]
    if isinstance(value, torch.Tensor):
        raise UnknownOutputError
    if isinstance(value, (tuple, list)) and kind in (tuple, list):
        parts = [_part(part, places) for part in value]
        return lambda sources: kind([part(sources) for part in parts])
    if isinstance(value, dict) and kind is dict:
        return _mapping(value, places)
    if isinstance(value, OrderedDict) and kind is not OrderedDict:
        return _ordered(value, places)
    raise UnknownOutputError


def _mapping(values: Mapping[str, object], places: Mapping[int, tuple[int, int]]) -> Build:
    parts = {key: _part(part, places) for key, part in values.items()}
    return lambda sources: {key: part(sources) for key, part in parts.items()}


def _ordered(value: OrderedDict[str, object], places: Mapping[int, tuple[int, int]]) -> Build:
    kind, attributes, keys = type(value), vars(value), list(value.keys())
    if not all(key in attributes and attributes[key] is OrderedDict.__getitem__(value, key) for key in keys):
        raise UnknownOutputError
    build_attributes = _mapping(attributes, places)

    def build(sources: Sources) -> object:
        made = OrderedDict.__new__(kind)
        own = vars(made)
        own.update(build_attributes(sources))
        for key in keys:
            OrderedDict.__setitem__(made, key, own[key])
        return made

    return build
