"""Options of a pass as text: ``min-n=64 skip=lm_head,foo.*``."""

from __future__ import annotations

import json
import shlex
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from sparseflow.errors import PassError
from sparseflow.passes.base import Pass


def parse_options(pass_class: type[Pass], text: str) -> Pass:
    """Make a pass from the text of its options.

    Raises:
        PassError: an option is unknown, repeated, or has a value of the wrong kind.
    """
    known = {option_name(field): field for field in fields(pass_class)}
    values: dict[str, object] = {}
    for name, value in _split(pass_class.name, text):
        if name not in known:
            raise _unknown(pass_class, name, list(known))
        if known[name].name in values:
            raise PassError(f"pass '{pass_class.name}'", f"option '{name}' is given twice", "Give it once.")
        values[known[name].name] = _parse(pass_class, known[name], value)
    return pass_class(**values)


def format_pass(pass_: Pass) -> str:
    """The pass as it is written in a pipeline, options at their default left out."""
    parts = [
        f"{option_name(field)}={format_value(getattr(pass_, field.name))}"
        for field in fields(pass_)
        if getattr(pass_, field.name) != field.default
    ]
    return f"{pass_.name}{{{' '.join(parts)}}}" if parts else pass_.name


def option_name(field: Field[object]) -> str:
    """The name of an option in text."""
    return field.name.replace("_", "-")


def _split(name: str, text: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise PassError(f"pass '{name}'", f"options '{text}' don't parse: {error}") from None
    pairs = [word.partition("=") for word in words]
    for option, equals, _ in pairs:
        if not equals:
            raise PassError(f"pass '{name}'", f"option '{option}' has no value", f"Write {option}=value.")
    return [(option, value) for option, _, value in pairs]


def _parse(pass_class: type[Pass], field: Field[object], text: str) -> Any:
    subject = f"pass '{pass_class.name}', option '{option_name(field)}'"
    try:
        return _reader(field)(text)
    except ValueError as error:
        raise PassError(subject, str(error)) from None


def _reader(field: Field[object]) -> Any:
    if field.metadata["parse"] is not None:
        return field.metadata["parse"]
    return _parse_texts if isinstance(field.default, tuple) else _parse_count


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"needs a whole number, not '{text}'")
    return int(text)


def _parse_texts(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def format_value(value: object) -> str:
    """The value of an option as it is written."""
    return shlex.quote(",".join(value) if isinstance(value, tuple) else str(value))


def table_path(text: str) -> Path:
    """The path of a table, as an option has it."""
    if not text:
        raise ValueError("needs the path of a JSON file")
    return Path(text)


def json_table(path: Path, kind: str, remedy: str) -> dict[str, object]:
    """The JSON object in a file.

    Args:
        path: of the file.
        kind: what errors call it.
        remedy: what it should hold.

    Raises:
        PassError: there is none.
    """
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PassError(f"{kind} '{path}'", f"can't be read: {error}", remedy) from None
    if not isinstance(table, dict):
        raise PassError(f"{kind} '{path}'", "is no JSON object", remedy)
    return table


def _unknown(pass_class: type[Pass], name: str, known: list[str]) -> PassError:
    remedy = f"Its options are {', '.join(known)}." if known else "It has no options."
    return PassError(f"pass '{pass_class.name}'", f"has no option '{name}'", remedy)
