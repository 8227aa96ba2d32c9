"""The docstring of a function says what it does, in the imperative: "Return …", not "What …" or "The …"."""

import ast
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparseflow

ROOMS = (
    "api",
    "bench",
    "checkpoints",
    "cli",
    "compiler",
    "contextual",
    "dialect",
    "evaluation",
    "execution",
    "finetune",
    "frontend",
    "integrations",
    "lowering",
    "nn",
    "passes",
    "profiling",
    "pruning",
    "reports",
    "runtime",
    "support",
    "tools",
)
"""Every package of sparseflow."""

MODULES = ("errors", "roi", "validation")
"""The modules of sparseflow outside of packages."""

NOT_IMPERATIVE = frozenset(
    re.findall(
        r"\w+",
        "what which whose who where when why how whether "
        "the a an this that these those it its one all each every both some any no none nothing "
        "of in on at by for from to with without as if",
    )
)
"""Words that begin a question or a noun phrase: articles, pronouns, question words and prepositions."""


def functions(tree: ast.AST, *, properties: bool = False) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a module, or its properties, which are named by what they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if bool(decorators & {"property", "cached_property", "setter"}) == properties:
                yield node


def first_word(docstring: str) -> str:
    return docstring.split(maxsplit=1)[0].strip(",.:;`").lower()


def test_first_words() -> None:
    assert first_word("The rank r.") in NOT_IMPERATIVE
    assert first_word("What it is.") in NOT_IMPERATIVE
    assert first_word("Return the rank.") not in NOT_IMPERATIVE


def files(room: str) -> dict[str, Path]:
    """Return the files of a room by name; an editable install may have them anywhere."""
    spec = importlib.util.find_spec(f"sparseflow.{room}")
    assert spec is not None, room
    if not spec.submodule_search_locations:
        assert spec.origin is not None, room
        return {f"{room}.py": Path(spec.origin)}
    # An editable install's path has folders without sources, and the checkout's own.
    folders = [path for path in map(Path, spec.submodule_search_locations) if (path / "__init__.py").exists()]
    return {f"{room}/{file.relative_to(top)}": file for top in folders for file in sorted(top.rglob("*.py"))}


def test_every_room_is_looked_at() -> None:
    rooms = {module.name for module in pkgutil.iter_modules(sparseflow.__path__)}
    # The path of an editable install has the checkout itself, too.
    assert rooms - {"sparseflow_compiler"} == {*ROOMS, *MODULES}
    assert len(files("runtime")) > 50


@pytest.mark.parametrize("room", [*ROOMS, *MODULES])
def test_docstrings_of_functions_are_imperative(room: str) -> None:
    wrong = [
        f"{name}:{node.lineno} {node.name}: {text.splitlines()[0]}"
        for name, file in files(room).items()
        for node in functions(ast.parse(file.read_text("utf-8")))
        if (text := ast.get_docstring(node)) and first_word(text) in NOT_IMPERATIVE
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", [*ROOMS, *MODULES])
def test_docstrings_of_properties_are_noun_phrases(room: str) -> None:
    wrong = [
        f"{name}:{node.lineno} {node.name}: {text.splitlines()[0]}"
        for name, file in files(room).items()
        for node in functions(ast.parse(file.read_text("utf-8")), properties=True)
        if (text := ast.get_docstring(node)) and first_word(text) in ("return", "returns", "get")
    ]
    assert not wrong, "\n".join(wrong)
