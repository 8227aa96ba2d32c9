"""The docstring of a function says what it does, in the imperative: "Return …", not "What …" or "The …"."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = (
    "checkpoints",
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
    "pruning",
    "runtime/artifact",
    "runtime/calling",
    "runtime/contextual",
    "runtime/formats",
    "support",
    "tools",
)
"""The rooms whose prose was revised; a room joins once it passes."""

PENDING = ("compiler/measured_policies.py",)
"""Files of those rooms that weren't."""

NOT_IMPERATIVE = frozenset(
    re.findall(
        r"\w+",
        "what which whose who where when why how whether "
        "the a an this that these those it its one all each every both some any no none nothing "
        "of in on at by for from to with without as if",
    )
)
"""Words that begin a question or a noun phrase: articles, pronouns, question words and prepositions."""


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield the functions of a module, properties excepted: those are named by what they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if not decorators & {"property", "cached_property", "setter"}:
                yield node


def first_word(docstring: str) -> str:
    return docstring.split(maxsplit=1)[0].strip(",.:;`").lower()


def test_first_words() -> None:
    assert first_word("The rank r.") in NOT_IMPERATIVE
    assert first_word("What it is.") in NOT_IMPERATIVE
    assert first_word("Return the rank.") not in NOT_IMPERATIVE


def files(room: str) -> dict[str, Path]:
    """Return the files of a room by name; an editable install may have them anywhere."""
    package = importlib.import_module(f"sparseflow.{room.replace('/', '.')}")
    folder = Path(package.__path__[0])
    return {f"{room}/{file.relative_to(folder)}": file for file in sorted(folder.rglob("*.py"))}


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_of_functions_are_imperative(room: str) -> None:
    wrong = [
        f"{name}:{node.lineno} {node.name}: {text.splitlines()[0]}"
        for name, file in files(room).items()
        if name not in PENDING
        for node in functions(ast.parse(file.read_text("utf-8")))
        if (text := ast.get_docstring(node)) and first_word(text) in NOT_IMPERATIVE
    ]
    assert not wrong, "\n".join(wrong)
