"""Print what the environment needs, from pyproject.toml: build requirements, dependencies and extras.

Usage: requirements.py PYPROJECT [--only PART...]

A part is `build` (what the native library is built with, beside torch), `dependencies` or an extra.

`pip install -e .[all]` would resolve the same list only while building the package, which needs
the list's own contents (torch, scikit-build-core, cmake) to be there first.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

APART = ("release", "vllm")
"""Extras of gigabytes, which have environments of their own."""


def parts(pyproject: dict[str, dict[str, object]]) -> dict[str, list[str]]:
    """The requirements of a checkout by part, in the order of pyproject.toml."""
    build, project = pyproject["build-system"]["requires"], pyproject["project"]
    dependencies, extras = project["dependencies"], project.get("optional-dependencies", {})
    assert isinstance(build, list)
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    return {"build": [*build, "cmake", "ninja"], "dependencies": dependencies, **extras}


def main() -> int:
    """Print one requirement a line."""
    found = parts(tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    only = sys.argv[3:] if sys.argv[2:3] == ["--only"] else [part for part in found if part not in APART]
    print("\n".join(requirement for part in only for requirement in found[part]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
