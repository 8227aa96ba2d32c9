"""Write the reference pages that the code already says: commands, options, environment variables, errors.

Usage: reference_pages.py [--check] FOLDER

Writes cli.md, options.md, environment.md and errors.md, or with --check says which in FOLDER are stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import reference_cli
import reference_environment
import reference_errors
import reference_options

PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": reference_cli.page,
    "options.md": reference_options.page,
    "environment.md": reference_environment.page,
    "errors.md": reference_errors.page,
}


def main() -> int:
    """Write or compare; exit code 1 when a page is stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    return max(refresh(options.folder / name, make(), check=options.check) for name, make in PAGES.items())


def refresh(path: Path, text: str, *, check: bool) -> int:
    """Write one page, or say that it is stale; 1 for a stale one."""
    if not check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path}: differs from what the code says; run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
