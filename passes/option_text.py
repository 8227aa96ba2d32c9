"""Options of a pass as text: ``min-n=64 skip=lm_head,foo.*``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from sparseflow.errors import PassError
from sparseflow.passes.base import Pass
from sparseflow.runtime import formats

T = TypeVar("T", bound=str)

Table = Path | Mapping[str, object]
"""A JSON object: the path of its file, or its content."""


def parse_options(pass_class: type[Pass], text: str) -> Pass:
    """Make a pass from the text of its options.

    Raises:
        PassError: an option is unknown, repeated, or has a value of the wrong kind.
    """
    return pass_class(**parse_fields(f"pass '{pass_class.name}'", fields(pass_class), text))


def parse_fields(subject: str, declared: Iterable[Field[object]], text: str) -> dict[str, Any]:
    """Parse the options in a text; return their values by field name.

    Args:
        subject: the pass or pipeline, for errors.
        declared: fields with the metadata of `sparseflow.passes.base.option`.
        text: the options.

    Raises:
        PassError: an option is unknown, repeated, or has a value of the wrong kind.
    """
    known = {option_name(field): field for field in declared}
    values: dict[str, object] = {}
    for name, value in _split(subject, text):
        if name not in known:
            raise _unknown(subject, name, list(known))
        if known[name].name in values:
            raise PassError(subject, f"option '{name}' is given twice", "Give it once.")
        values[known[name].name] = _parse(subject, known[name], value)
    return values


def format_pass(pass_: Pass) -> str:
    """Return the pass as pipeline text, without options that have their default."""
    parts = [
        f"{option_name(field)}={format_value(getattr(pass_, field.name))}"
        for field in fields(pass_)
        if getattr(pass_, field.name) != field.default
    ]
    return f"{pass_.name}{{{' '.join(parts)}}}" if parts else pass_.name


def option_name(field: Field[object]) -> str:
    """Return an option's name as written in a pipeline."""
    return field.name.replace("_", "-")


def _split(subject: str, text: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise PassError(subject, f"options '{text}' don't parse: {error}") from None
    pairs = [word.partition("=") for word in words]
    for option, equals, _ in pairs:
        if not equals:
            raise PassError(subject, f"option '{option}' has no value", f"Write {option}=value.")
    return [(option, value) for option, _, value in pairs]


def _parse(subject: str, field: Field[object], text: str) -> object:
    try:
        return _reader(field)(text)
    except ValueError as error:
        raise PassError(f"{subject}, option '{option_name(field)}'", str(error)) from None


def _reader(field: Field[object]) -> Callable[[str], object]:
    if field.metadata["parse"] is not None:
        parse: Callable[[str], object] = field.metadata["parse"]
        return parse
    return _parse_texts if isinstance(field.default, tuple) else _parse_count


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"needs a whole number, not '{text}'")
    return int(text)


def _parse_texts(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def format_value(value: object) -> str:
    """Return an option's value as written in a pipeline."""
    if isinstance(value, Mapping):
        return shlex.quote(json.dumps(value, default=asdict))
    return shlex.quote(",".join(value) if isinstance(value, tuple) else str(value))


def one_of(choices: Sequence[T]) -> Callable[[str], T]:
    """Return a parser of an option that has a few values only."""

    def parse(text: str) -> T:
        for choice in choices:
            if choice == text:
                return choice
        raise ValueError(f"must be one of {', '.join(choices)}, not '{text}'")

    return parse


def format_name(text: str) -> str:
    """Parse an option that is the name of a format of sparse weights."""
    return one_of(formats.sparse_names())(text)


def head_format(text: str) -> str:
    """Parse an option that is the name of any weight format."""
    return one_of(formats.names())(text)


def parse_table(text: str) -> Table:
    """Parse an option that is a table: the path of a JSON file, or the JSON object itself."""
    if not text:
        raise ValueError("needs the path of a JSON file")
    if not text.startswith("{"):
        return Path(text)
    try:
        table: dict[str, object] = json.loads(text)
    except ValueError as error:
        raise ValueError(f"isn't a JSON object: {error}") from None
    return table


def read_table(table: Table, kind: str, remedy: str) -> Mapping[str, object]:
    """Read the entries of a table.

    Args:
        table: the table, or the path of its file.
        kind: how errors call it.
        remedy: for errors, what the table should hold.

    Raises:
        PassError: the file holds no JSON object.
    """
    if not isinstance(table, Path):
        return table
    try:
        entries = json.loads(table.read_text())
    except (OSError, ValueError) as error:
        raise PassError(f"{kind} '{table}'", f"can't be read: {error}", remedy) from None
    if not isinstance(entries, dict):
        raise PassError(f"{kind} '{table}'", "isn't a JSON object", remedy)
    return entries


def _unknown(subject: str, name: str, known: list[str]) -> PassError:
    remedy = f"Its options are {', '.join(known)}." if known else "It has no options."
    return PassError(subject, f"has no option '{name}'", remedy)
