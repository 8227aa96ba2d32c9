"""Texts of three kinds that are on any machine with Python: reference prose, docstrings and programs."""

from __future__ import annotations

import ast
import importlib
import sysconfig
from pathlib import Path

_MODULES = ("argparse", "csv", "heapq", "json/decoder", "json/encoder", "pathlib", "random", "shutil")
_MORE = ("statistics", "tarfile", "textwrap", "threading", "typing", "unittest/mock", "zipfile")
_CHARACTERS = 400_000
"""Of each text at most: some hundred windows."""


def usual_texts() -> dict[str, str]:
    """Return the texts by name; those that this Python doesn't have are left out."""
    trees = [ast.parse(source) for name in (*_MODULES, *_MORE) if (source := _source(name))]
    # Docstrings first: they are taken out of the trees for the programs.
    found = {"language reference": _reference(), "docstrings": _docstrings(trees), "programs": _code(trees)}
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


def _docstrings(trees: list[ast.Module]) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def _code(trees: list[ast.Module]) -> str:
    """Return programs as Python prints them, and take the docstrings out of their trees."""
    for tree in trees:
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_text(body[0]):
                body[0] = ast.Pass()
    return "\n\n".join(map(ast.unparse, trees))


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
