"""The order of the passes, in phases, from the frontend's module to the lowering's.

No other module orders passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TypeVar

from sparseflow.errors import PassError
from sparseflow.passes.base import Pass
from sparseflow.passes.option_text import Table, format_name, head_format, one_of, parse_table
from sparseflow.passes.registry import pass_class
from sparseflow.support.arguments import MEMORY_MODES, QUERIES, Memory, Queries

T = TypeVar("T")

PHASES: dict[str, tuple[str, ...]] = {
    "canonical": ("causal-attention", "drop-true-masks", "form-decode-attention", "canonicalize-linear"),
    "marked": ("keep-dense", "mark-patterns"),
    "contextual": ("form-contextual-mlp", "form-column-linear"),
    "matched": ("match-sparse-linear", "explain-products"),
    "merged": ("merge-projections", "fuse-epilogue", "choose-format", "fuse-gate", "pack-head"),
    "sparse-gemm": ("apply-policy",),
    "runtime": ("lower-sparse-gemm", "lower-contextual-mlp", "lower-column-linear", "lower-decode-attention"),
}
"""The passes of each phase, in order. A phase ends where something is decided by looking at the module."""


def _setting(phase: str, default: T, text: str, parse: Callable[[str], T] | None = None) -> T:
    """Declare a field with the phase that takes it; the rest is as in `sparseflow.passes.base.option`."""
    return field(default=default, metadata={"phase": phase, "text": text, "parse": parse})


@dataclass(frozen=True)
class PipelineOptions:
    """The options from which all passes are made: the requested ones, and decisions of the compiler.

    A pass whose table is None is left out, because nothing was recorded for it.

    Attributes:
        queries: attention of how many queries is formed.
        dense: a table of `keep-dense`.
        patterns: a table of `mark-patterns`.
        contextual: a table of `form-contextual-mlp`.
        columns: a table of `form-column-linear`.
        outside_reason: why layers that neither table knows stay dense; empty if they may become sparse.
        skip: patterns (fnmatch) of layers that stay dense.
        format: how sparse weights are stored and multiplied.
        head: name of the weight of the model's head, where `pack-head` stores it in a format of its own.
        head_format: that format.
        policies: a table of `apply-policy`.
        memory: whether dense weights are kept in addition to packed ones.
        memory: whether dense weights are kept beside packed ones, as `apply-policy` has it.
    """

    queries: Queries = _setting(  # noqa: RUF009
        "canonical", "few", "attention of how many queries is formed: few, or any", one_of(QUERIES)
    )
    dense: Table | None = _setting(  # noqa: RUF009
        "marked", None, "weights that stay dense: path of a JSON object from names to reasons", parse_table
    )
    patterns: Table | None = _setting(  # noqa: RUF009
        "marked", None, "patterns of weights that aren't 2:4: path of a table of mark-patterns", parse_table
    )
    contextual: Table | None = _setting(  # noqa: RUF009
        "contextual", None, "predictors of MLPs: path of a table of form-contextual-mlp", parse_table
    )
    columns: Table | None = _setting(  # noqa: RUF009
        "contextual", None, "thresholds of layers: path of a table of form-column-linear", parse_table
    )
    outside_reason: str = _setting(
        "contextual", "", "why layers in neither table stay dense; empty: they can become sparse", str
    )
    skip: tuple[str, ...] = _setting("matched", (), "patterns (fnmatch) of layers that stay dense")
    format: str = _setting("merged", "2:4", "how sparse weights are stored, such as 2:4-fp8", format_name)
    head: str = _setting("merged", "", "name of the weight of the head; empty: it is like any layer", str)
    head_format: str = _setting("merged", "", "how the head is stored, such as fp8", head_format)
    policies: Table | None = _setting(  # noqa: RUF009
        "sparse-gemm", None, "measurements: path of a table of apply-policy; none: always sparse", parse_table
    )
    memory: Memory = _setting(  # noqa: RUF009
        "sparse-gemm",
        "auto",
        "whether dense weights are kept: auto (as the table says), compressed (none) or fast",
        one_of(MEMORY_MODES),
    )


@dataclass(frozen=True)
class Phase:
    """A sequence of passes that runs without a decision of the compiler in between.

    Attributes:
        name: the state in which it leaves the module.
        passes: the passes, in order; without those for which nothing was recorded.
        inputs: the fields of `PipelineOptions` from which they are made, known before they run.
    """

    name: str
    passes: tuple[Pass, ...]
    inputs: tuple[str, ...]


def phases(options: PipelineOptions) -> tuple[Phase, ...]:
    """Return every phase, in order, with its passes made from the options."""
    return tuple(phase(name, options) for name in PHASES)


def phase(name: str, options: PipelineOptions) -> Phase:
    """Return the phase of a name in `PHASES`, with its passes made from the options."""
    made = tuple(_made(PHASES[name], _given(options)))
    return Phase(name, made, tuple(setting.name for setting in added_settings(name)))


def _made(names: Iterable[str], given: Mapping[str, Mapping[str, object] | None]) -> Iterator[Pass]:
    for name in names:
        options = given.get(name, {})
        if options is not None:
            yield pass_class(name)(**options)


def pipeline(until: str, options: PipelineOptions | None = None) -> tuple[Pass, ...]:
    """Return the passes of all phases up to and including one.

    Args:
        until: name of the last phase.
        options: by default those of a pipeline without recorded tables.

    Raises:
        PassError: there is no such phase.
    """
    names = list(PHASES)[: _position(until) + 1]
    given = PipelineOptions() if options is None else options
    return tuple(pass_ for name in names for pass_ in phase(name, given).passes)


def settings(until: str) -> list[Field[object]]:
    """Return the fields of `PipelineOptions` that the phases up to and including one take.

    Raises:
        PassError: there is no such phase.
    """
    names = list(PHASES)[: _position(until) + 1]
    return [setting for name in names for setting in added_settings(name)]


def added_settings(phase: str) -> list[Field[object]]:
    """Return the fields of `PipelineOptions` that a phase takes."""
    return [setting for setting in fields(PipelineOptions) if setting.metadata["phase"] == phase]


def _given(options: PipelineOptions) -> dict[str, Mapping[str, object] | None]:
    """Return the options of each pass that gets any from `PipelineOptions`; None leaves the pass out."""
    only_reason = options.outside_reason and options.contextual is None and options.columns is None
    contextual: Table | None = {} if only_reason else options.contextual
    policies: Table | None = {} if options.memory != "auto" and options.policies is None else options.policies
    return {
        "form-decode-attention": {"queries": options.queries},
        "keep-dense": _table(options.dense),
        "mark-patterns": _table(options.patterns),
        "form-contextual-mlp": _table(contextual, outside_reason=options.outside_reason),
        "form-column-linear": _table(options.columns, outside_reason=options.outside_reason),
        "match-sparse-linear": {"skip": options.skip},
        "choose-format": {"format": options.format},
        "pack-head": {"weight": options.head, "format": options.head_format} if options.head else None,
        "apply-policy": _table(policies, memory=options.memory),
    }


def _table(table: Table | None, **more: object) -> Mapping[str, object] | None:
    return None if table is None else {"table": table, **more}


def _position(name: str) -> int:
    if name in PHASES:
        return list(PHASES).index(name)
    close = difflib.get_close_matches(name, PHASES, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise PassError(
        f"pipeline '{name}'", "is unknown", f"{hint}`sparseflow-opt --list-pipelines` lists all pipelines."
    )
