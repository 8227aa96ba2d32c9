"""The docstring of a function says what it does, in the imperative: "Return …", not "What …" or "The …"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparseflow

ROOT = Path(sparseflow.__file__).parent
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

PENDING = ("compiler/measured.py",)
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


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_of_functions_are_imperative(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, "there is no such room"
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}: {text.splitlines()[0]}"
        for file in files
        if str(file.relative_to(ROOT)) not in PENDING
        for node in functions(ast.parse(file.read_text("utf-8")))
        if (text := ast.get_docstring(node)) and first_word(text) in NOT_IMPERATIVE
    ]
    assert not wrong, "\n".join(wrong)
