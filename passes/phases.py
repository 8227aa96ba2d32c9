"""The order of the passes: phases, from what the frontend makes to what the lowering takes.

Nothing else orders passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TypeVar

from sparseflow.errors import PassError
from sparseflow.passes.base import Pass
from sparseflow.passes.options import Table, format_name, one_of, parse_table
from sparseflow.passes.registry import pass_class
from sparseflow.support.arguments import MEMORY_MODES, Memory

T = TypeVar("T")

PHASES: dict[str, tuple[str, ...]] = {
    "canonical": ("causal-attention", "drop-true-masks", "canonicalize-linear"),
    "marked": ("keep-dense",),
    "contextual": ("form-contextual-mlp",),
    "matched": ("match-sparse-linear", "explain-products"),
    "merged": ("merge-projections", "fuse-epilogue", "choose-format", "fuse-gate"),
    "sparse-gemm": ("apply-policy",),
    "runtime": ("lower-sparse-gemm", "lower-contextual-mlp"),
}
"""The passes of each phase, in order. A phase ends where something is decided by looking at the module."""


def _setting(phase: str, default: T, text: str, parse: Callable[[str], T] | None = None) -> T:
    """Declare a field: the phase that takes it, and what `sparseflow.passes.base.option` has of an option."""
    return field(default=default, metadata={"phase": phase, "text": text, "parse": parse})


@dataclass(frozen=True)
class PipelineOptions:
    """What the passes of the phases are made from: what was asked for, and what was decided on the way.

    A pass whose table is None is left out, as nothing was recorded for it.

    Attributes:
        dense: a table of `keep-dense`.
        contextual: a table of `form-contextual-mlp`.
        others: its reason for layers outside of those MLPs, empty for none.
        skip: patterns (fnmatch) of layers that stay dense.
        format: how sparse weights are stored and multiplied.
        policies: a table of `apply-policy`.
        memory: whether dense weights are kept beside packed ones.
    """

    dense: Table | None = _setting(  # noqa: RUF009
        "marked", None, "weights that stay dense: path of a JSON object from names to reasons", parse_table
    )
    contextual: Table | None = _setting(  # noqa: RUF009
        "contextual", None, "predictors of MLPs: path of a table of form-contextual-mlp", parse_table
    )
    others: str = _setting("contextual", "", "why layers outside of those MLPs stay dense; empty: none", str)
    skip: tuple[str, ...] = _setting("matched", (), "patterns (fnmatch) of layers that stay dense")
    format: str = _setting("merged", "2:4", "how sparse weights are stored, such as 2:4-fp8", format_name)
    policies: Table | None = _setting(  # noqa: RUF009
        "sparse-gemm", None, "measurements: path of a table of apply-policy; none: always sparse", parse_table
    )
    memory: Memory = _setting(  # noqa: RUF009
        "runtime", "compressed", "whether dense weights are kept: compressed or fast", one_of(MEMORY_MODES)
    )


@dataclass(frozen=True)
class Phase:
    """Passes between which nothing is decided.

    Attributes:
        name: of the state that it leaves the module in.
        passes: what runs, in order; none where nothing was recorded for them.
        inputs: the fields of `PipelineOptions` that they are made from, known before they run.
    """

    name: str
    passes: tuple[Pass, ...]
    inputs: tuple[str, ...]


def phases(options: PipelineOptions) -> tuple[Phase, ...]:
    """Every phase, in order, with its passes made from the options."""
    return tuple(phase(name, options) for name in PHASES)


def phase(name: str, options: PipelineOptions) -> Phase:
    """One phase, by its name in `PHASES`, with its passes made from the options."""
    made = tuple(_made(PHASES[name], _given(options)))
    return Phase(name, made, tuple(setting.name for setting in added_settings(name)))


def _made(names: Iterable[str], given: Mapping[str, Mapping[str, object] | None]) -> Iterator[Pass]:
    for name in names:
        options = given.get(name, {})
        if options is not None:
            yield pass_class(name)(**options)


def pipeline(until: str, options: PipelineOptions | None = None) -> tuple[Pass, ...]:
    """The passes of all phases up to one, that one included.

    Args:
        until: name of the phase.
        options: the defaults when left out.

    Raises:
        PassError: there is no such phase.
    """
    names = list(PHASES)[: _position(until) + 1]
    given = PipelineOptions() if options is None else options
    return tuple(pass_ for name in names for pass_ in phase(name, given).passes)


def settings(until: str) -> list[Field[object]]:
    """The fields of `PipelineOptions` that the phases up to one take.

    Raises:
        PassError: there is no such phase.
    """
    names = list(PHASES)[: _position(until) + 1]
    return [setting for name in names for setting in added_settings(name)]


def added_settings(phase: str) -> list[Field[object]]:
    """The fields of `PipelineOptions` that a phase takes."""
    return [setting for setting in fields(PipelineOptions) if setting.metadata["phase"] == phase]


def _given(options: PipelineOptions) -> dict[str, Mapping[str, object] | None]:
    """The options of each pass that has any from here; None leaves it out."""
    contextual: Table | None = {} if options.others and options.contextual is None else options.contextual
    return {
        "keep-dense": _table(options.dense),
        "form-contextual-mlp": _table(contextual, others=options.others),
        "match-sparse-linear": {"skip": options.skip},
        "choose-format": {"format": options.format},
        "apply-policy": _table(options.policies),
        "lower-sparse-gemm": {"memory": options.memory},
    }


def _table(table: Table | None, **more: object) -> Mapping[str, object] | None:
    return None if table is None else {"table": table, **more}


def _position(name: str) -> int:
    if name in PHASES:
        return list(PHASES).index(name)
    close = difflib.get_close_matches(name, PHASES, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise PassError(
        f"pipeline '{name}'", "is unknown", f"{hint}`sparseflow-opt --list-pipelines` shows what there is."
    )
