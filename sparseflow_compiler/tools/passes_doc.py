"""Generate documentation of the passes from their docstrings and fields.

``python -m sparseflow.tools.passes_doc docs/reference/passes.md`` writes the file; ``--check`` compares it.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields
from pathlib import Path

from sparseflow.passes.base import Pass
from sparseflow.passes.option_text import format_value, option_name
from sparseflow.passes.phases import PHASES, added_settings
from sparseflow.passes.registry import PASSES, pass_class


def as_text() -> str:
    """Return one line for each pass and one for each of its options."""
    lines = ["passes:"]
    for name in PASSES:
        class_ = pass_class(name)
        lines.append(f"  --{name:24}{_plain(_summary(class_))}")
        lines += [f"      {option_name(field) + '=':22}{_about(field)}" for field in fields(class_)]
    return "\n".join(lines) + "\n"


def pipelines_as_text() -> str:
    """Return a line for each pipeline with the passes that it adds, and one for each option that it adds."""
    lines = ["pipelines, each with all passes of those before:"]
    for phase, passes in PHASES.items():
        lines.append(f"  --pipeline={phase:14}{', '.join(passes)}")
        lines += [f"      {option_name(field) + '=':22}{_about(field)}" for field in added_settings(phase)]
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """Return the contents of ``docs/reference/passes.md``."""
    parts = [
        "# Passes",
        "<!-- Made from the passes' docstrings by `make docs`; `make check` compares. -->",
        "`sparseflow-opt` runs each by a flag of its name, options as in "
        '`--match-sparse-linear="min-n=64 skip=lm_head"`.',
    ]
    for name in PASSES:
        parts += _section(pass_class(name))
    parts += _pipelines()
    return "\n\n".join(parts) + "\n"


def _pipelines() -> Iterator[str]:
    yield "# Pipelines"
    yield (
        "`--pipeline=NAME{OPTIONS}` runs what `sf.compile` runs up to there: the passes of that phase and\n"
        "of all before it, with their options. Where a table is left out, nothing was measured or\n"
        "decided, and its pass doesn't run. `--dump-pass-pipeline` prints the passes as\n"
        "`--pass-pipeline` takes them; `compiled.pipeline()` returns those of a compiled model, with all\n"
        "that was measured."
    )
    rows = [f"| `{phase}` | {', '.join(map(_code, passes))} |" for phase, passes in PHASES.items()]
    yield "\n".join(["| pipeline | adds |", "|---|---|", *rows])
    yield "\n".join(["| option | default | | from |", "|---|---|---|---|", *_settings()])


def _settings() -> Iterator[str]:
    for phase in PHASES:
        yield from (f"{_row(field)} `{phase}` |" for field in added_settings(phase))


def _code(text: str) -> str:
    return f"`{text}`"


def _section(class_: type[Pass]) -> Iterator[str]:
    yield f"## {class_.name}"
    yield _docstring(class_)
    if fields(class_):
        yield "\n".join(["| option | default | |", "|---|---|---|", *map(_row, fields(class_))])


def _row(field: Field[object]) -> str:
    return f"| `{option_name(field)}` | {_default(field)} | {field.metadata['text']} |"


def _docstring(class_: type[Pass]) -> str:
    return inspect.cleandoc(class_.__doc__ or "")


def _summary(class_: type[Pass]) -> str:
    return _docstring(class_).partition("\n\n")[0].replace("\n", " ")


def _plain(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"\1", text)


def _about(field: Field[object]) -> str:
    default = _default(field)
    return f"{field.metadata['text']} (default {default})" if default else str(field.metadata["text"])


def _default(field: Field[object]) -> str:
    return "" if field.default in (None, ()) else format_value(field.default)


def main(args: Sequence[str] | None = None) -> int:
    """Write the documentation, or check that it is current.

    Args:
        args: ``[--check] PATH``; ``sys.argv`` when left out.

    Returns:
        The exit code: 1 when the file isn't what it should be.
    """
    parser = argparse.ArgumentParser(prog="passes_doc", description="Write the documentation of the passes.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    known = parser.parse_args(args)
    if not known.check:
        known.path.write_text(as_markdown())
        return 0
    if known.path.is_file() and known.path.read_text() == as_markdown():
        return 0
    print(f"{known.path}: out of date\n  → Run `make docs`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
