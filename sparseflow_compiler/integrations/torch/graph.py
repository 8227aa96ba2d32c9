"""A graph that torch.compile captured, and the same graph bound to the weights of one module."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx import traceback

from sparseflow.integrations.torch.refused_backward import without_history
from sparseflow.runtime.calling.structure import COUNTERS


@dataclass
class Number:
    """An integer input that isn't a tensor's size, such as a step count; a program serves any value of it."""

    value: int


COUNTERS.add((Number, "value"))


@dataclass(frozen=True)
class SizeOf:
    """The dimension of a placeholder whose size another placeholder holds."""

    placeholder: int
    dim: int


@dataclass(frozen=True)
class Graph:
    """The roles of a graph's placeholders and results.

    Attributes:
        module: the graph as torch.compile captured it.
        weights: the placeholders that are parameters. Calls may pass different parameters for them, because
            layers of one class share their code.
        sources: the expression by which the code refers to each weight.
        sizes: the placeholders that are sizes of others.
        inputs: all other placeholders.
        returned: for each result the placeholder that it returns unchanged, or None if it is computed.
        required: for each computed result whether it would require gradients.
    """

    module: fx.GraphModule
    weights: tuple[int, ...]
    sources: tuple[str, ...]
    sizes: Mapping[int, SizeOf]
    inputs: tuple[int, ...]
    returned: tuple[int | None, ...]
    required: tuple[bool, ...]

    @classmethod
    def of(cls, module: fx.GraphModule) -> Graph:
        """Read a graph; torch.compile removes the nodes' metadata when it is done."""
        nodes = list(module.graph.find_nodes(op="placeholder"))
        values = [node.meta["example_value"] for node in nodes]
        weights = tuple(i for i, value in enumerate(values) if isinstance(value, nn.Parameter))
        sizes = dict(_sizes(values))
        inputs = tuple(i for i in range(len(nodes)) if i not in weights and i not in sizes)
        tensors = {id(value): i for i, value in enumerate(values) if isinstance(value, Tensor)}
        results = module.graph.output_node().args[0]
        assert isinstance(results, Sequence), "a graph of torch.compile returns a tuple"
        found = [node.meta.get("example_value") if isinstance(node, fx.Node) else None for node in results]
        returned = tuple(tensors.get(id(value)) for value in found)
        required = tuple(
            isinstance(value, Tensor) and value.requires_grad
            for value, place in zip(found, returned, strict=True)
            if place is None
        )
        sources = tuple(_source(nodes[i]) for i in weights)
        return cls(module, weights, sources, sizes, inputs, returned, required)

    def call(self, args: Sequence[object]) -> list[object]:
        """Return the inputs among the graph's arguments, as a `BoundGraph` takes them."""
        picked = (without_history(args[i]) for i in self.inputs)
        return [Number(value) if type(value) is int else value for value in picked]

    def results(self, args: Sequence[object], computed: Sequence[object]) -> tuple[object, ...]:
        """Return the graph's results: computed ones, and arguments that it returns."""
        rest = iter(computed)
        return tuple(next(rest) if place is None else args[place] for place in self.returned)


class BoundGraph(nn.Module):
    """A graph with the weights of one module; it shares their memory without keeping the parameters alive.

    Args:
        graph: the graph.
        weights: parameters by their names in the user's model, in the graph's order.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._graph = graph
        self._weight_names = tuple(weights)
        for name, weight in weights.items():
            *path, last = name.split(".")
            parent = functools.reduce(_child, path, cast(nn.Module, self))
            parent.register_parameter(last, nn.Parameter(weight.detach(), requires_grad=False))
        self.eval()

    def forward(self, *inputs: object) -> tuple[object, ...]:
        """Run the graph on the inputs that `Graph.call` returned; return the computed results."""
        graph = self._graph
        args: dict[int, Any] = {
            place: value.value if isinstance(value, Number) else value
            for place, value in zip(graph.inputs, inputs, strict=True)
        }
        for place, name in zip(graph.weights, self._weight_names, strict=True):
            args[place] = functools.reduce(getattr, name.split("."), self)
        for place, size in graph.sizes.items():
            args[place] = args[size.placeholder].shape[size.dim]
        with traceback.preserve_node_meta():
            results = fx.Interpreter(graph.module).run(*(args[place] for place in sorted(args)))
        return tuple(r for r, place in zip(results, graph.returned, strict=True) if place is None)


def _child(parent: nn.Module, name: str) -> nn.Module:
    if name not in parent._modules:
        parent.add_module(name, nn.Module())
    return parent.get_submodule(name)


def _sizes(values: Sequence[object]) -> Iterator[tuple[int, SizeOf]]:
    """Yield the placeholders that are symbolic sizes of tensors, with the dimension that has that size."""
    dims: dict[object, SizeOf] = {}
    for place, value in enumerate(values):
        shape: Sequence[int | torch.SymInt] = value.shape if isinstance(value, Tensor) else ()
        symbolic = ((dim, size) for dim, size in enumerate(shape) if isinstance(size, torch.SymInt))
        dims |= {size.node.expr: SizeOf(place, dim) for dim, size in symbolic}
    for place, value in enumerate(values):
        if isinstance(value, torch.SymInt) and value.node.expr in dims:
            yield place, dims[value.node.expr]


def _source(node: fx.Node) -> str:
    """Return the source of a weight: `fc.weight` for `L['self']._modules['fc']._parameters['weight']`."""
    argument = node.meta.get("grapharg")
    name = getattr(getattr(argument, "source", None), "name", "")
    path = re.sub(r"(\._modules|\._parameters)?\['([^']+)'\]", r".\2", name() if callable(name) else name)
    return re.sub(r"^[LG]\.(self\.)?", "", path) or node.name
