"""Read the inputs of ``sparseflow-opt``: files, chunks of files, modules."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparseflow.errors import ParseError

_BYTECODE = b"ML\xefR"
_SPLIT = re.compile(r"^// -----.*$\n?", re.MULTILINE)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"()[]{}<>"))
_DEEPEST = 500
_COMMENT_OR_STRING = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"')
_RESULT = re.compile(_COMMENT_OR_STRING.pattern + r"|(%[\w.$-]+)#(\d+)")
_MANY = re.compile(r"%[\w.$-]+#\d{4}")
_ESCAPE = re.compile(rb"\\(?:([0-9A-Fa-f]{2})|.)")


@dataclass(frozen=True)
class Chunk:
    """A part of the input that is a module of its own.

    Attributes:
        name: path of the input.
        content: text, led by as many empty lines as there are before it in the file; or bytecode.
        is_whole: whether it is all of a file, so that the path can stand for it.
    """

    name: str
    content: str | bytes
    is_whole: bool

    @property
    def place(self) -> str:
        """Where its first line is."""
        if isinstance(self.content, bytes):
            return self.name
        return f"{self.name}:{1 + len(self.content) - len(self.content.lstrip(chr(10)))}"


def read_chunks(path: str, split: bool) -> Iterator[Chunk]:
    """Read a file, or stdin for ``-``, and cut it where asked to.

    Raises:
        ParseError: it can't be read, is empty, or is neither text nor bytecode.
    """
    data = _read(path)
    if data.startswith(_BYTECODE):
        yield Chunk(path, data, path != "-")
        return
    text = _decode(path, data)
    if not text.strip():
        raise ParseError(path, "is empty", "Give MLIR with at least one operation.")
    for content in _cut(text) if split else [text]:
        yield Chunk(path, content, path != "-" and content is text)


def _read(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ParseError(path, f"can't be read: {error.strerror}", "Give the path of an MLIR file.") from None
    except ValueError as error:
        raise ParseError(repr(path), f"can't be read: {error}", "Give the path of an MLIR file.") from None


def _decode(path: str, data: bytes) -> str:
    remedy = "Give MLIR as UTF-8 text or as bytecode."
    if b"\0" in data:
        raise ParseError(path, f"is binary: a zero byte at offset {data.index(0)}", remedy)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        rule = f"isn't UTF-8 text: byte {data[error.start]:#04x} at offset {error.start}"
        raise ParseError(path, rule, remedy) from None
    strings = _COMMENT_OR_STRING.finditer(text) if "\\" in text else ()
    bad = next((found for found in strings if not _is_utf8(found[0])), None)
    if bad is not None:
        # MLIR allows it; Python, which its bindings give strings to, doesn't.
        line, rule = 1 + text.count("\n", 0, bad.start()), f"has a string that isn't UTF-8: {bad[0]:.60}"
        raise ParseError(f"{path}:{line}", rule, "Escape the bytes of UTF-8, such as \\C3\\A9 for é.")
    _check_results(path, text)
    if _depth(data) > _DEEPEST:
        # MLIR's parser recurses and would overflow the stack.
        raise ParseError(path, f"nests brackets more than {_DEEPEST} deep", "Flatten the regions or types.")
    return text


def _check_results(path: str, text: str) -> None:
    """Refuse ``%name#N`` where so short a text can't have as many results: MLIR reserves places for N."""
    if not _MANY.search(text):
        return
    last: dict[str, int] = {}
    total = 0
    for found in _RESULT.finditer(text):
        name, number = found[1], int(found[2][:18]) if found[1] else 0
        if number > last.get(name, 0):
            total += number - last.get(name, 0)
            last[name] = number
        if total > len(text):
            rule = f"'{found[0]:.60}' names a result that can't exist"
            raise ParseError(
                _place(path, text, found.start()), rule, "Count the results of an operation from 0."
            )


def _place(path: str, text: str, at: int) -> str:
    return f"{path}:{1 + text.count(chr(10), 0, at)}:{at - text.rfind(chr(10), 0, at)}"


def _is_utf8(token: str) -> bool:
    """Return whether it is a comment, or a string whose escapes make text."""
    if token.startswith("//"):
        return True
    made = _ESCAPE.sub(lambda found: bytes.fromhex((found[1] or b"20").decode()), token.encode())
    try:
        made.decode()
    except UnicodeDecodeError:
        return False
    return True


def _depth(data: bytes) -> int:
    """Return an upper bound of the bracket depth: each round removes a level; unclosed ones count."""
    left, rounds = data.replace(b"->", b"").translate(None, _NOT_BRACKETS), 0
    while left and rounds <= _DEEPEST:
        fewer = left
        for pair in (b"()", b"[]", b"{}", b"<>"):
            fewer = fewer.replace(pair, b"")
        if len(fewer) == len(left):
            return rounds + sum(map(left.count, (b"(", b"[", b"{", b"<")))
        left, rounds = fewer, rounds + 1
    return rounds


def _cut(text: str) -> Iterator[str]:
    start = 0
    for match in [*_SPLIT.finditer(text), None]:
        end = len(text) if match is None else match.start()
        if text[start:end].strip():
            yield "\n" * text.count("\n", 0, start) + text[start:end]
        start = len(text) if match is None else match.end()
