"""Texts of three kinds that are on any machine with Python: reference prose, docstrings and programs."""

from __future__ import annotations

import ast
import importlib
import sysconfig
from pathlib import Path

_MODULES = (
    "argparse",
    "asyncio/base_events",
    "collections/__init__",
    "csv",
    "datetime",
    "decimal",
    "email/message",
)
_MORE = ("heapq", "json/__init__", "logging/__init__", "pathlib", "random", "shutil", "statistics", "tarfile")
_CHARACTERS = 400_000
"""Of each text at most: some hundred windows."""


def usual_texts() -> dict[str, str]:
    """Return the texts by name; those that this Python doesn't have are left out."""
    sources = [source for name in (*_MODULES, *_MORE) if (source := _source(name))]
    found = {
        "language reference": _reference(),
        "docstrings": _docstrings(sources),
        "programs": _code(sources),
    }
    return {name: text[:_CHARACTERS] for name, text in found.items() if text}


def _reference() -> str:
    """Return the language reference that Python's `help` shows."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions keep it in a package of its own
        return ""
    return "\n".join(str(topics[name]) for name in sorted(topics))


def _source(name: str) -> str:
    path = Path(sysconfig.get_path("stdlib"), f"{name}.py")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _docstrings(sources: list[str]) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def _code(sources: list[str]) -> str:
    """Return programs without docstrings, as Python prints them."""
    trees = [ast.parse(source) for source in sources]
    for tree in trees:
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and len(body) > 1 and _is_text(body[0]):
                del body[0]
    return "\n\n".join(map(ast.unparse, trees))


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
