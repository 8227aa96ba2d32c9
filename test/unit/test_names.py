"""A module's name says what it holds without its package; architecture.md has the exceptions."""

from __future__ import annotations

import importlib
from collections import defaultdict
from pathlib import Path

KINDS = {"base.py", "registry.py", "types.py", "ops.py", "portable.py", "registration.py"}
"""Names that say what a module is to its package, whichever that is."""

NAMED_AFTER = ("cli", "api", "bench", "runtime/kernels", "runtime/formats", "dialect", "nn")
"""Packages whose modules are named after a command, a function or the one object that they hold."""


def modules() -> dict[str, list[str]]:
    """Return the packages of each module name; an editable install has them in several folders."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in ("sparseflow", "sparseflow.passes", "sparseflow.lowering", "sparseflow.runtime"):
        folder = Path(str(importlib.import_module(name).__file__)).parent
        room = Path(*name.split(".")[1:])
        for file in folder.rglob("*.py"):
            package = (room / file.relative_to(folder)).parent.as_posix()
            if file.name not in ("__init__.py", "__main__.py") and package not in found[file.name]:
                found[file.name].append(package)
    return found


def test_no_two_modules_share_a_name_but_by_convention() -> None:
    shared = {
        name: [package for package in packages if package not in NAMED_AFTER]
        for name, packages in modules().items()
        if name not in KINDS
    }
    found = {name: packages for name, packages in shared.items() if len(packages) > 1}
    assert not found
    assert {"cli", "api"} <= set(modules()["tune.py"]), "all packages were looked at"
    assert len(modules()["registry.py"]) >= 3
