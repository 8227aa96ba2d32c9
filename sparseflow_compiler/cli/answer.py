"""Print the result of a command: as JSON, or as text that fits the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sparseflow.cli.verbosity import Verbosity, output_width, verbosity


def answer(data: object, text: Callable[[int], str], *, as_json: bool, saved: Path | None = None) -> None:
    """Print a result on stdout.

    Args:
        data: the whole result, ready for JSON.
        text: returns the result as text of at most so many characters a line.
        as_json: whether the user wants the data.
        saved: where the command has written what it made; the text about it is left out with -q.
    """
    if as_json:
        print_json(data)
    elif saved is None or verbosity() is not Verbosity.QUIET:
        print(text(output_width()).rstrip("\n"))
        if saved is not None:
            print(f"saved to {saved}")


def print_json(data: object) -> None:
    """Print data as the single JSON document of ``--json``."""
    print(json.dumps(data))
