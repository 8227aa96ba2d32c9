"""The contracts of .importlinter hold, and each of them notices what it forbids."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A contract, a file that breaks it, and what the file says.
PLANTED = [
    ("A room imports only rooms below it", "dialect/planted.py", "from sparseflow.passes import registry"),
    ("A room imports only rooms below it", "planted/__init__.py", ""),
    (
        "What transformers calls reaches neither the compiler nor the façade",
        "integrations/transformers/plugin/planted.py",
        "from sparseflow.compiler import options",
    ),
    (
        "No two modules or packages of a room import each other, over any detour",
        "runtime/pattern.py",
        "from sparseflow.runtime import packed",
    ),
    ("Only the command line uses SparseFlow as a user does", "nn/planted.py", "import sparseflow"),
    ("Only the compiler's rooms know MLIR", "profiling/planted.py", "from torch_mlir import ir"),
    (
        "What runs, prunes and trains reaches no part of the compiler",
        "pruning/planted.py",
        "from sparseflow.lowering import builder",
    ),
    ("Passes never import torch", "passes/planted.py", "from sparseflow.runtime import packed"),
    ("Pages are written without torch", "reports/planted.py", "def page():\n    import torch"),
    (
        "A library of others is known in its room of integrations alone",
        "execution/planted.py",
        "def generate():\n    import transformers",
    ),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The Python sources as `make source` lays them out."""
    package = tmp_path_factory.mktemp("source") / "sparseflow"
    for folder, place in (
        ("sparseflow_compiler", "."),
        ("passes", "passes"),
        ("lowering", "lowering"),
        ("runtime", "runtime"),
    ):
        for file in (ROOT / folder).rglob("*.py"):
            copy = package / place / file.relative_to(ROOT / folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return package


def broken(sources):
    """Return the contracts that the sources break, and what was printed."""
    command = [sys.executable, ROOT / "tools/layers.py", sources.parent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    names = re.findall(r"^(.+) BROKEN\b", done.stdout, re.MULTILINE)
    assert (done.returncode != 0) == bool(names), done.stdout + done.stderr
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return names, done.stdout


def test_the_sources_keep_every_contract(sources):
    names, printed = broken(sources)
    assert names == [], printed


def test_every_contract_is_tried():
    contracts = re.findall(r"^name = (.+)$", (ROOT / ".importlinter").read_text(), re.MULTILINE)
    assert sorted({name for name, _, _ in PLANTED}) == sorted(contracts)


@pytest.mark.parametrize(("contract", "file", "line"), PLANTED, ids=[file for _, file, _ in PLANTED])
def test_a_planted_import_is_found(sources, contract, file, line):
    planted = sources / file
    before = planted.read_text() if planted.exists() else None
    planted.parent.mkdir(exist_ok=True)
    planted.write_text((before or "") + line + "\n")
    try:
        names, printed = broken(sources)
    finally:
        planted.write_text(before) if before is not None else planted.unlink()
        if not any(planted.parent.iterdir()):
            planted.parent.rmdir()
    assert contract in names, printed


def test_imports_for_types_alone_do_not_count(sources):
    planted = sources / "support" / "planted.py"
    planted.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sparseflow.api import compile\n"
    )
    try:
        assert broken(sources)[0] == []
    finally:
        planted.unlink()
