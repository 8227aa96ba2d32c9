"""Real sentences that every Python carries: the first lines of the standard library's docstrings."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def docstring_sentences(count: int) -> list[str]:
    """The first `count` distinct first lines of docstrings, 40 to 200 characters, in order of file name."""
    found: dict[str, None] = {}
    for sentence in _first_lines():
        if 40 <= len(sentence) <= 200:
            found.setdefault(sentence)
        if len(found) == count:
            break
    return list(found)


def _first_lines() -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text:
                yield text.strip().splitlines()[0]
