"""The local stubs of torch-mlir say what the installed bindings say of themselves."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

STUBS = Path(__file__).parents[2] / "stubs"
MODULES = sorted(
    ".".join(file.relative_to(STUBS).with_suffix("").parts)
    for file in STUBS.rglob("*.pyi")
    if file.stem != "__init__"
)


def tree(module):
    """The stub of a module."""
    return ast.parse((STUBS / module.replace(".", "/")).with_suffix(".pyi").read_text())


def methods(module):
    """Every method of a stub with the class of the installed package that it is about."""
    installed = importlib.import_module(module)
    for found in tree(module).body:
        # `_Scope` and the like are the stub's own.
        if isinstance(found, ast.ClassDef) and hasattr(installed, found.name):
            for method in found.body:
                if isinstance(method, ast.FunctionDef):
                    yield getattr(installed, found.name), method


def parameters(arguments):
    """Names of parameters, without self."""
    return [
        a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if a.arg != "self"
    ]


def stated(member):
    """The parameters of each signature that a binding states; of a property's getter, if it is one."""
    for text, _, _ in getattr(getattr(member, "fget", member), "__nb_signature__", ()):
        # Defaults stand there as \0, \1 …
        signature = re.sub(r"\\\d+", "...", text).replace("def (", "def getter(")
        yield parameters(ast.parse(f"{signature}: ...").body[0].args)


@pytest.mark.parametrize("module", MODULES)
def test_what_the_stub_names_is_there(module):
    installed = importlib.import_module(module)
    names = [
        node.target.id if isinstance(node, ast.AnnAssign) else node.name
        for node in tree(module).body
        if isinstance(node, (ast.AnnAssign, ast.FunctionDef, ast.ClassDef))
    ]
    missing = [name for name in names if not hasattr(installed, name) and name not in ("_Scope", "_Writable")]
    missing += [
        f"{owner.__name__}.{method.name}"
        for owner, method in methods(module)
        if not hasattr(owner, method.name)
    ]
    assert names
    assert missing == []


@pytest.mark.parametrize("module", ["torch_mlir.ir", "torch_mlir.passmanager"])
def test_a_method_takes_what_the_bindings_say(module):
    checked, wrong = 0, []
    for owner, method in methods(module):
        signatures = list(stated(getattr(owner, method.name)))
        mine = parameters(method.args)
        checked += bool(signatures)
        if signatures and not any(mine == names[: len(mine)] for names in signatures):
            wrong.append((owner.__name__, method.name, mine, signatures))
    assert checked > 3
    assert wrong == []
