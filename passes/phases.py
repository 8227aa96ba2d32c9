"""The order of the passes: phases, from what the frontend makes to what the lowering takes.

Nothing else orders passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from sparseflow.errors import PassError
from sparseflow.passes.base import Pass
from sparseflow.passes.options import Table, format_name, one_of, parse_table
from sparseflow.passes.registry import pass_class
from sparseflow.support.arguments import MEMORY_MODES, Memory

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


def _setting(phase: str, default: Any, text: str, parse: Callable[[str], Any] | None = None) -> Any:
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
        memory: whether dense weights are kept beside packed ones, as `apply-policy` has it.
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
        "sparse-gemm",
        "auto",
        "whether dense weights are kept: auto (as the table says), compressed (none) or fast",
        one_of(MEMORY_MODES),
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
    given = _given(options)
    return tuple(
        Phase(phase, tuple(_made(names, given)), tuple(setting.name for setting in added_settings(phase)))
        for phase, names in PHASES.items()
    )


def _made(names: Iterable[str], given: Mapping[str, Mapping[str, Any] | None]) -> Iterator[Pass]:
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
    count = _position(until) + 1
    made = phases(PipelineOptions() if options is None else options)
    return tuple(pass_ for phase in made[:count] for pass_ in phase.passes)


def settings(until: str) -> list[Field[Any]]:
    """The fields of `PipelineOptions` that the phases up to one take.

    Raises:
        PassError: there is no such phase.
    """
    names = list(PHASES)[: _position(until) + 1]
    return [setting for name in names for setting in added_settings(name)]


def added_settings(phase: str) -> list[Field[Any]]:
    """The fields of `PipelineOptions` that a phase takes."""
    return [setting for setting in fields(PipelineOptions) if setting.metadata["phase"] == phase]


def _given(options: PipelineOptions) -> dict[str, Mapping[str, Any] | None]:
    """The options of each pass that has any from here; None leaves it out."""
    contextual: Table | None = {} if options.others and options.contextual is None else options.contextual
    policies: Table | None = {} if options.memory != "auto" and options.policies is None else options.policies
    return {
        "keep-dense": _table(options.dense),
        "form-contextual-mlp": _table(contextual, others=options.others),
        "match-sparse-linear": {"skip": options.skip},
        "choose-format": {"format": options.format},
        "apply-policy": _table(policies, memory=options.memory),
    }


def _table(table: Table | None, **more: Any) -> Mapping[str, Any] | None:
    return None if table is None else {"table": table, **more}


def _position(name: str) -> int:
    if name in PHASES:
        return list(PHASES).index(name)
    close = difflib.get_close_matches(name, PHASES, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise PassError(
        f"pipeline '{name}'", "is unknown", f"{hint}`sparseflow-opt --list-pipelines` shows what there is."
    )
