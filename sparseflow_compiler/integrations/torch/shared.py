"""Share one set of packed weights among all graphs of a model, found by its parameters."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, MutableMapping, Sequence

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from sparseflow.api.compiled import CompiledModel
from sparseflow.compiler.bank import WeightBank
from sparseflow.compiler.options import CompileOptions
from sparseflow.errors import ArgumentError
from sparseflow.integrations.torch.eager import EagerGraph, warn_eager
from sparseflow.pruning.prunable import Prunable
from sparseflow.reports.report import Report

Stamp = tuple[int, int]
"""The version and address of a tensor."""


def stamp(weight: Tensor) -> Stamp:
    """Return a value that changes when a tensor is written in place or moves to other memory."""
    return 0 if weight.is_inference() else weight._version, weight.data_ptr()


class Shared:
    """The weights that the graphs of a model share, and those graphs.

    Args:
        options: of the compilation.
        title: class name of the model, for the report.
    """

    def __init__(self, options: CompileOptions, title: str) -> None:
        self.options = options
        self.title = title
        self.prunable = Prunable()
        """How pruning treats the weights, as far as their model is known."""
        self.bank = WeightBank(
            prune=options.prune is not None, pattern=options.pattern, prunable=lambda: self.prunable
        )
        self._known: MutableMapping[Tensor, tuple[str, Stamp]] = WeakTensorKeyDictionary()
        self._names: set[str] = set()
        self._graphs: list[weakref.ref[CompiledModel]] = []
        self._eager: list[EagerGraph] = []

    def fits(self, weights: Sequence[Tensor], proposals: Sequence[str]) -> bool:
        """Return whether known weights are unchanged, and the names of new ones are free."""
        return all(
            proposal not in self._names
            if weight not in self._known
            else self._known[weight][1] == stamp(weight)
            for weight, proposal in zip(weights, proposals, strict=True)
        )

    def names(self, weights: Sequence[Tensor], proposals: Sequence[str]) -> list[str]:
        """Return the names of weights, registering new ones; a name that is taken gets a number."""
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
        """Include a graph in the report for as long as torch.compile keeps it."""
        self._graphs.append(weakref.ref(graph))

    def add_eager(self, graph: EagerGraph) -> None:
        """Include a graph that runs eagerly in the report; warn about the first."""
        if not self._eager:
            warn_eager(self.title, graph, self.options.prune)
        self._eager.append(graph)

    @property
    def report(self) -> Report:
        """The report of every linear layer of the graphs."""
        from sparseflow.compiler.decisions import make_report
        from sparseflow.compiler.gains import what_pruning_would_do

        graphs = [graph for ref in self._graphs if (graph := ref()) is not None]
        programs = [program for graph in graphs for program in graph._programs.all]
        found = make_report(self.title, programs, self.bank, self.options)
        found.model["if_pruned"] = what_pruning_would_do(programs, self.bank, self.options)
        found.model["graphs"] = len(graphs)
        found.model["eager_graphs"] = [graph.reason for graph in self._eager]
        known = {layer.name for layer in found.layers}
        rows = {row.name: row for graph in self._eager for row in graph.rows() if row.name not in known}
        return Report([*found.layers, *rows.values()], found.model)


_SHARED: MutableMapping[Tensor, MutableMapping[CompileOptions, Shared]] = WeakTensorKeyDictionary()
"""The `Shared` of each parameter, by options; a weak reference, since the graphs keep it alive."""


def shared_weights(
    weights: Sequence[Tensor], sources: Sequence[str], owner: nn.Module | None, options: CompileOptions
) -> tuple[Shared, list[str]]:
    """Return the `Shared` of graphs that have some of these weights, or a new one, and the weights' names."""
    full = {} if owner is None else dict(owner.named_parameters())
    ids = {id(weight): name for name, weight in full.items()}
    proposals = [ids.get(id(weight), source) for weight, source in zip(weights, sources, strict=True)]
    known = (found for weight in weights for found in _known(weight, options))
    fitting = (found for found in known if found.fits(weights, proposals))
    shared = next(fitting, None) or Shared(options, "function" if owner is None else type(owner).__name__)
    names = shared.names(weights, proposals)
    if owner is not None:
        shared.prunable.add(Prunable.of(owner).rename(dict(zip(proposals, names, strict=True))))
    # Graphs without a common parameter find the same object through the other parameters of the model.
    others = (w for n, w in full.items() if not any(found.fits([w], [n]) for found in _known(w, options)))
    for weight in (*weights, *others):
        _SHARED.setdefault(weight, weakref.WeakValueDictionary())[options] = shared
    return shared, names


def _known(weight: Tensor, options: CompileOptions | None = None) -> Iterator[Shared]:
    for chosen, shared in list(_SHARED.get(weight, {}).items()):
        if options is None or chosen == options:
            yield shared


def report(model: nn.Module) -> Report:
    """Return the report of `torch.compile(model, backend="sparseflow")` on the graphs that ran so far.

    Args:
        model: the model, or what torch.compile returned. If it was compiled with several sets of options, the
            last one determines a layer's row.

    Raises:
        ArgumentError: no graph of the model has run yet.
    """
    parts = {id(shared): shared for weight in model.parameters() for shared in _known(weight)}
    reports = [shared.report for shared in parts.values()]
    if not reports:
        raise ArgumentError(
            f"sparseflow.integrations.torch.report({type(model).__name__})",
            "no graph of this model was compiled by the backend",
            _remedy(model),
        )
    return functools.reduce(_merged, reports)


def _remedy(model: nn.Module) -> str:
    parts = model.named_modules()
    in_place = [name for name, part in parts if part._compiled_call_impl is not None]
    if not in_place:
        return 'call torch.compile(model, backend="sparseflow") on inputs first'
    return (
        f"call {in_place[0] or 'the model'} itself: compile() in place does nothing for callers of forward, "
        "such as sentence-transformers; put torch.compile(part) or sf.compile(part) in the place of the part"
    )


def _merged(one: Report, other: Report) -> Report:
    """Merge two reports; for layers in both, the second's row is used."""
    layers = list({layer.name: layer for part in (one, other) for layer in part.layers}.values())
    stages = {**one.model["seconds"], **other.model["seconds"]}
    model = {
        **other.model,
        **{key: one.model[key] + other.model[key] for key in ("programs", "graphs", "eager_graphs")},
        **{key: sum(getattr(layer, key) for layer in layers) for key in ("bytes_dense", "bytes")},
        "seconds": {s: sum(part.model["seconds"].get(s, 0.0) for part in (one, other)) for s in stages},
    }
    return Report(layers, model)
