"""Run a notebook in its folder and keep the outputs, or only see that it runs.

Usage: run_notebook.py [--check] NOTEBOOK
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

LONGEST = 600
"""Seconds for a cell, and for the kernel to start, on however busy a machine."""


def run(path: Path, *, keep: bool) -> None:
    """Run every cell; the first that fails ends it.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    limits = {"timeout": LONGEST, "startup_timeout": LONGEST}
    NotebookClient(notebook, **limits, kernel_name="python3", resources=resources).execute()
    if keep:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day: every run would differ
        nbformat.write(notebook, path)


def main() -> int:
    """Run one notebook."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        run(options.notebook, keep=not options.check)
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
