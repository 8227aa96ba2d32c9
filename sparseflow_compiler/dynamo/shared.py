"""One set of packed weights for all graphs of a model, found by its parameters, alive while graphs are."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from sparseflow.api.compiled import CompiledModel
from sparseflow.api.options import CompileOptions
from sparseflow.api.weights import WeightBank
from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from sparseflow.api.report import Report

Stamp = tuple[int, int]


def stamp(weight: Tensor) -> Stamp:
    """What changes when a tensor is written in place or gets other memory."""
    return 0 if weight.is_inference() else weight._version, weight.data_ptr()


class Shared:
    """Weights that graphs share, and those graphs.

    Args:
        options: of the compilation.
        title: the class of the model, for the report.
    """

    def __init__(self, options: CompileOptions, title: str) -> None:
        self.options = options
        self.title = title
        self.bank = WeightBank(prune=options.prune is not None)
        self._known: MutableMapping[Tensor, tuple[str, Stamp]] = WeakTensorKeyDictionary()
        self._names: set[str] = set()
        self._graphs: list[weakref.ref[CompiledModel]] = []

    def fits(self, weights: Sequence[Tensor]) -> bool:
        """Whether none of these weights changed since it became known here."""
        return all(weight not in self._known or self._known[weight][1] == stamp(weight) for weight in weights)

    def names(self, weights: Sequence[Tensor], proposals: Sequence[str]) -> list[str]:
        """The names of weights, which become known if they aren't; a name proposed twice gets a number."""
        for weight, proposal in zip(weights, proposals, strict=True):
            if weight not in self._known:
                name, count = proposal, 1
                while name in self._names:
                    count += 1
                    name = f"{proposal}_{count}"
                self._names.add(name)
                self._known[weight] = (name, stamp(weight))
        return [self._known[weight][0] for weight in weights]

    def add(self, graph: CompiledModel) -> None:
        """Make a graph part of the report for as long as torch.compile keeps it."""
        self._graphs.append(weakref.ref(graph))

    @property
    def report(self) -> Report:
        """Every linear layer of the graphs."""
        from sparseflow.api.decisions import make_report

        graphs = [graph for ref in self._graphs if (graph := ref()) is not None]
        programs = [program for graph in graphs for program in graph._programs]
        found = make_report(self.title, programs, self.bank, self.options)
        found.model["graphs"] = len(graphs)
        return found


_SHARED: MutableMapping[Tensor, MutableMapping[CompileOptions, Shared]] = WeakTensorKeyDictionary()
"""Parameter → its `Shared` for each set of options; those are weak too: the graphs hold them."""


def shared_weights(
    weights: Sequence[Tensor], sources: Sequence[str], owner: nn.Module | None, options: CompileOptions
) -> tuple[Shared, list[str]]:
    """What graphs with some of these weights share already, or a new one; and the weights' names in it."""
    known = (found for weight in weights for found in _known(weight, options) if found.fits(weights))
    shared = next(known, None) or Shared(options, "function" if owner is None else type(owner).__name__)
    full = {} if owner is None else {id(weight): name for name, weight in owner.named_parameters()}
    proposals = [full.get(id(w), source) for w, source in zip(weights, sources, strict=True)]
    names = shared.names(weights, proposals)
    for weight in weights:
        _SHARED.setdefault(weight, weakref.WeakValueDictionary())[options] = shared
    return shared, names


def _known(weight: Tensor, options: CompileOptions | None = None) -> Iterator[Shared]:
    for chosen, shared in list(_SHARED.get(weight, {}).items()):
        if options is None or chosen == options:
            yield shared


def report(model: nn.Module) -> Report:
    """What `torch.compile(model, backend="sparseflow")` did to the linear layers of graphs that ran so far.

    Args:
        model: the model, or what torch.compile made of it. Where parts of it were compiled apart, or with
            several options, the figures of `Report.model` are those of the part compiled last.

    Raises:
        ArgumentError: no graph of the model ran yet.
    """
    parts = {id(shared): shared for weight in model.parameters() for shared in _known(weight)}
    reports = [shared.report for shared in parts.values()]
    if not reports:
        raise ArgumentError(
            f"sparseflow.dynamo.report({type(model).__name__})",
            "no graph of this model was compiled by the backend",
            'call torch.compile(model, backend="sparseflow") on inputs first',
        )
    last = reports[-1]
    last.layers = list({layer.name: layer for part in reports for layer in part.layers}.values())
    return last
