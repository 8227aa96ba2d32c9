"""Pipelines as text, as mlir-opt writes them: ``builtin.module(func.func(cse),match-sparse-linear)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sparseflow.errors import PassError

_CLOSING = {"(": ")", "{": "}"}


@dataclass(frozen=True)
class Element:
    """One entry of a pipeline.

    Attributes:
        name: a pass, a pipeline, or an operation that the body is anchored on.
        body: text between parentheses, None without any.
        options: text between braces, empty without any.
        text: the entry as written.
    """

    name: str
    body: str | None
    options: str
    text: str


def parse_elements(text: str) -> list[Element]:
    """Split a pipeline at its top-level commas.

    Raises:
        PassError: brackets or quotes don't match, or an entry is empty.
    """
    if not text.strip():
        return []
    return [_parse_element(part, text) for part in _split_at_commas(text)]


def _split_at_commas(text: str) -> Iterator[str]:
    start = 0
    for index, character, depth in _scan(text):
        if character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def _scan(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield each character outside quotes with its index and nesting depth; brackets count as outside."""
    open_brackets: list[str] = []
    quote = ""
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif open_brackets and character == _CLOSING[open_brackets[-1]]:
            open_brackets.pop()
            yield index, character, len(open_brackets)
        elif character in ")}":
            raise _malformed(text, f"'{character}' at {index} closes nothing")
        else:
            yield index, character, len(open_brackets)
            if character in _CLOSING:
                open_brackets.append(character)
    if quote or open_brackets:
        raise _malformed(text, f"'{quote or open_brackets[-1]}' is never closed")


def _parse_element(part: str, text: str) -> Element:
    brackets = [index for index, character, depth in _scan(part) if depth == 0 and character in "(){}"]
    name = part[: brackets[0]].strip() if brackets else part.strip()
    if not name:
        raise _malformed(text, "an entry is empty")
    body, options, end = None, "", brackets[0] if brackets else len(part)
    for opening, closing in zip(brackets[::2], brackets[1::2], strict=True):
        if part[end:opening].strip():
            raise _malformed(text, f"'{part[end:opening].strip()}' follows a bracket")
        inner = part[opening + 1 : closing]
        body, options = (inner, options) if part[opening] == "(" else (body, inner)
        end = closing + 1
    if part[end:].strip() and brackets:
        raise _malformed(text, f"'{part[end:].strip()}' follows a bracket")
    return Element(name, body, options, part.strip())


def _malformed(text: str, rule: str) -> PassError:
    return PassError(f"pipeline '{text}'", rule, "Write it like 'first-pass,second-pass{option=value}'.")
