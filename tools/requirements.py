"""Print what the environment needs, from pyproject.toml: build requirements, dependencies and extras.

Usage: requirements.py PYPROJECT [--only EXTRA]

`pip install -e .[all]` would resolve the same list only while building the package, which needs
the list's own contents (torch, scikit-build-core, cmake) to be there first.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

APART = ("release", "vllm")
"""Extras of gigabytes, which have environments of their own."""


def requirements(pyproject: dict[str, dict[str, object]]) -> list[str]:
    """The requirements of a checkout, in the order of pyproject.toml."""
    build = pyproject["build-system"]["requires"]
    project = pyproject["project"]
    extras = project.get("optional-dependencies", {})
    assert isinstance(build, list)
    assert isinstance(extras, dict)
    dependencies = project["dependencies"]
    assert isinstance(dependencies, list)
    chosen = (items for extra, items in extras.items() if extra not in APART)
    return [*build, "cmake", "ninja", *dependencies, *(item for items in chosen for item in items)]


def main() -> int:
    """Print one requirement a line."""
    pyproject = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if sys.argv[2:3] == ["--only"]:
        print("\n".join(pyproject["project"]["optional-dependencies"][sys.argv[3]]))
        return 0
    print("\n".join(requirements(pyproject)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
