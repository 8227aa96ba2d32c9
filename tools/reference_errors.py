"""The page of errors: each class, and the messages with their ways out as the sources have them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docstrings import as_markdown, summary, table

from sparseflow import errors

ROOT = Path(__file__).parents[1]
_ROOMS = ("sparseflow_compiler", "runtime", "passes", "lowering")
_HEAD = """# Errors

<!-- Made from the sources by `make docs`; `make check` compares. -->

Every error that SparseFlow raises on purpose is a `sparseflow.errors.SparseFlowError` and says three
things: what it is about (`subject`), what was required and what was found instead (`rule`), and the way
out (`remedy`). The tables list rules and remedies; … stands for what a message fills in. The commands
print the same and exit with 1."""


def page() -> str:
    """Return the contents of docs/reference/errors.md."""
    return "\n\n".join([_HEAD, *_classes(), *_warnings()]) + "\n"


def _classes() -> Iterator[str]:
    found = _messages()
    for name, class_ in vars(errors).items():
        if isinstance(class_, type) and issubclass(class_, errors.SparseFlowError):
            also = [base.__name__ for base in class_.__bases__ if base in (ImportError, ValueError)]
            yield f"## {name}"
            yield summary(class_.__doc__ or "") + (f" Also a `{also[0]}`." if also else "")
            if name in found:
                yield table(["rule", "remedy"], [list(each) for each in sorted(found[name])])


def _warnings() -> Iterator[str]:
    rows = [
        [f"`{name}`", summary(class_.__doc__ or "")]
        for name, class_ in vars(errors).items()
        if isinstance(class_, type) and issubclass(class_, errors.SparseFlowWarning)
    ]
    yield "## Warnings"
    yield table(["category", ""], rows)


def _messages() -> dict[str, set[tuple[str, str]]]:
    """Return by class the rules and remedies of the calls that spell both out."""
    found: dict[str, set[tuple[str, str]]] = {}
    for room in _ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) >= 3:
                    texts = [_text(argument) for argument in node.args[1:3]]
                    if hasattr(errors, node.func.id) and None not in texts:
                        rule, remedy = (as_markdown(_escaped(text or "")) for text in texts)
                        found.setdefault(node.func.id, set()).add((rule, remedy))
    return found


def _text(node: ast.expr) -> str | None:
    """Return a literal or f-string with … for its holes; None for anything else, or with nothing to read."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        text = "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…"
            for part in node.values
        )
        return text if any(letter.isalpha() for letter in text) else None
    return None


def _escaped(text: str) -> str:
    """Keep Markdown from reading what a message says literally."""
    for sign in "\\`*_<>[]":
        text = text.replace(sign, f"\\{sign}")
    return text
