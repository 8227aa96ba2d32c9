"""The callable that replaces a graph: one compiled model for each set of weights that calls pass."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.api.compiled import CompiledModel
from sparseflow.compiler.options import CompileOptions
from sparseflow.integrations.torch.eager import GRAPH_ERRORS, EagerGraph
from sparseflow.integrations.torch.graph import BoundGraph, Graph
from sparseflow.integrations.torch.owner import find_owner, require_inference
from sparseflow.integrations.torch.refused_backward import with_refused_backward
from sparseflow.integrations.torch.shared import Shared, Stamp, shared_weights, stamp
from sparseflow.support.arguments import require_matches

Key = tuple[int, ...]


@dataclass
class Bound:
    """A graph compiled for one set of weights.

    Attributes:
        compiled: runs it.
        names: the weights' names in the model.
        stamps: the weights' stamps when they were packed.
        shared: what the graphs of a model share; referenced here to keep it alive.
        owner: the model in whose call it was compiled, if known.
        weights: weak references whose callbacks drop this object when a weight is freed.
        eager: why the graph can't be compiled and runs eagerly, else None.
    """

    compiled: CompiledModel
    names: list[str]
    stamps: list[Stamp]
    shared: Shared
    owner: weakref.ref[nn.Module] | None
    weights: list[weakref.ref[Tensor]]
    eager: EagerGraph | None = None


class Region:
    """A graph with the calling convention of torch.compile.

    torch.compile calls one graph with the parameters of every module that runs the same code, so the
    parameters of a call select the compiled model.
    """

    def __init__(self, graph: Graph, options: CompileOptions) -> None:
        self._graph = graph
        self._options = options
        self._bound: dict[Key, Bound] = {}
        self._lock = threading.Lock()
        self.__name__ = "sparseflow"

    def __call__(self, *args: Any) -> tuple[object, ...]:
        """Run the graph.

        Raises:
            InferenceOnlyError: the model is in training mode, or an input requires gradients.
            SparseFlowError: a weight can't be packed, or an option has a wrong value. A graph that can't be
                compiled runs eagerly with a warning instead.
        """
        weights = [args[place] for place in self._graph.weights]
        bound = self._for(weights)
        owner = None if bound.owner is None else bound.owner()
        bound.compiled._model.training = owner is not None and owner.training
        if bound.eager is None:
            try:
                computed = bound.compiled.forward(*self._graph.call(args))
                assert isinstance(computed, Sequence), "a graph returns a tuple"
                if any(self._graph.required):
                    computed = with_refused_backward(bound.shared.title, computed, self._graph.required)
                return self._graph.results(args, computed)
            except GRAPH_ERRORS as error:
                bound.eager = EagerGraph.of(error, dict(zip(bound.names, weights, strict=True)))
                bound.shared.add_eager(bound.eager)
        return tuple(self._graph.module(*args))

    def _for(self, weights: Sequence[Tensor]) -> Bound:
        key, stamps = tuple(map(id, weights)), list(map(stamp, weights))
        bound = self._bound.get(key)
        if bound is None or bound.stamps != stamps:
            with self._lock:
                bound = self._bound.get(key)  # another thread may have made it meanwhile
                if bound is None or bound.stamps != stamps:
                    bound = self._bind(key, weights)
        return bound

    def _bind(self, key: Key, weights: Sequence[Tensor]) -> Bound:
        owner = find_owner(weights) if weights else None
        require_inference(owner, weights, torch.is_grad_enabled())
        if owner is not None:
            require_matches("compile", self._options.skip, owner)
        shared, names = shared_weights(weights, self._graph.sources, owner, self._options)
        # Messages show the class name of the compiled module, so it gets that of the user's model.
        kind = type(shared.title, (BoundGraph,), {})
        module = kind(self._graph, dict(zip(names, weights, strict=True)))
        compiled = CompiledModel(module, self._options, shared.bank)
        shared.add(compiled)
        region = weakref.ref(self)

        def drop(_: object) -> None:
            if (alive := region()) is not None:
                alive._bound.pop(key, None)

        bound = Bound(
            compiled,
            names,
            list(map(stamp, weights)),
            shared,
            None if owner is None else weakref.ref(owner),
            [weakref.ref(weight, drop) for weight in weights],
        )
        self._bound[key] = bound
        return bound
