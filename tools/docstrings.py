"""What docstrings in Google's style say, as Markdown."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"^(\w+): ", re.MULTILINE)
_MARK = re.compile(r"``(.+?)``", re.DOTALL)


def section(docstring: str, name: str) -> str:
    """Return the text of a section such as ``Args``; empty where the docstring has none."""
    text = inspect.cleandoc(docstring)
    match = re.search(rf"^{name}:\n((?:    .*\n|\n)*(?:    .*)?)", text + "\n", re.MULTILINE)
    return inspect.cleandoc(match[1]) if match else ""


def entries(docstring: str, name: str) -> dict[str, str]:
    """Return the entries ``name: text`` of a section, each on one line."""
    _, *parts = _ENTRY.split(section(docstring, name))
    return {key: as_markdown(text) for key, text in zip(parts[::2], parts[1::2], strict=True)}


def summary(docstring: str) -> str:
    """Return the first paragraph on one line."""
    return as_markdown(inspect.cleandoc(docstring).partition("\n\n")[0])


def as_markdown(text: str) -> str:
    """Return a docstring's text as one line of Markdown that may stand in a table."""
    line = " ".join(text.split())
    return _MARK.sub(r"`\1`", line).replace("|", "\\|")


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table without a newline at its end."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
