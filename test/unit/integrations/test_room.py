"""What is known of a library is in its room; of transformers also in one file of the runtime."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = [
    path
    for folder in ("sparseflow_compiler", "passes", "lowering", "runtime")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
ROOMS = ("transformers", "peft", "vllm")


def imported(tree: ast.AST) -> Iterator[str]:
    """The libraries that a file imports when it runs, anywhere in it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]
        yield from imported(node)


@functools.cache
def code(path: Path) -> str:
    """A file without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.unparse(tree)


def outside(library: str) -> list[Path]:
    return [path for path in SOURCES if f"integrations/{library}" not in path.as_posix()]


@pytest.mark.parametrize("library", ROOMS)
def test_only_its_room_imports_a_library(library: str) -> None:
    others = outside(library)
    assert 0 < len(others) < len(SOURCES)
    assert [path for path in others if library in imported(ast.parse(path.read_text()))] == []


def test_only_its_room_knows_the_names_of_pefts_layers() -> None:
    names = ("base_layer", "lora_A", "LoraModel", "BaseTunerLayer", "active_adapter")
    knowing = [path for path in outside("peft") if any(name in code(path) for name in names)]
    assert knowing == []


def test_one_file_of_the_runtime_knows_the_names_of_a_cache() -> None:
    knowing = [
        path.relative_to(ROOT) for path in outside("transformers") if "past_key_values" in path.read_text()
    ]
    assert knowing == [Path("runtime/calling/cache_names.py")]
