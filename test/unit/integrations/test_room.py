"""What is known of transformers is in one room, and in one file of the runtime, which never imports it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = [
    path
    for folder in ("sparseflow_compiler", "passes", "lowering", "runtime")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "integrations/transformers" not in path.as_posix()
]


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


def test_only_the_room_imports_transformers() -> None:
    assert SOURCES
    assert [path for path in SOURCES if "transformers" in imported(ast.parse(path.read_text()))] == []


def test_one_file_of_the_runtime_knows_the_names_of_a_cache() -> None:
    knowing = [path.relative_to(ROOT) for path in SOURCES if "past_key_values" in path.read_text()]
    assert knowing == [Path("runtime/calling/caches.py")]
