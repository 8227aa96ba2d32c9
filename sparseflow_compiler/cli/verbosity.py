"""How much a command says: the options -q and -v, and the width of what it prints."""

from __future__ import annotations

import enum
import functools
import inspect
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import typer

from sparseflow.errors import SparseFlowError
from sparseflow.support.progress import without_bars

R = TypeVar("R")

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="No warnings, no progress bars, no report of a file that was written."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Every layer; what libraries say; the traceback of an error."),
]


class Verbosity(enum.IntEnum):
    """How much a command says."""

    QUIET = -1
    NORMAL = 0
    VERBOSE = 1


_CURRENT = ContextVar("verbosity", default=Verbosity.NORMAL)


def verbosity() -> Verbosity:
    """Return how much the running command says."""
    return _CURRENT.get()


def chosen(quiet: bool, verbose: bool) -> Verbosity:
    """Return what the options ask for; without them what holds already.

    Raises:
        typer.BadParameter: both are given.
    """
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    return Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else verbosity()


@contextmanager
def speaking(level: Verbosity) -> Iterator[None]:
    """Set how much is said within a `with` block."""
    token = _CURRENT.set(level)
    try:
        with ExitStack() as stack:
            if level is Verbosity.QUIET:
                stack.enter_context(without_bars())
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            yield
    finally:
        _CURRENT.reset(token)


def spoken(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options -q and -v; with the latter, its errors show where they come from."""

    @functools.wraps(command)
    def run(*args: Any, quiet: bool = False, verbose: bool = False, **kwargs: Any) -> R:
        with speaking(chosen(quiet, verbose)):
            try:
                return command(*args, **kwargs)
            except SparseFlowError:
                if verbosity() is Verbosity.VERBOSE:
                    traceback.print_exc()
                raise

    # Typer reads the options from the signature.
    plain = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("quiet", Quiet), ("verbose", Verbose))
    ]
    whole = plain.replace(parameters=[*plain.parameters.values(), *more])
    run.__signature__ = whole  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in whole.parameters.items()}
    return run


def output_width() -> int:
    """Return how wide stdout is: as the terminal, or so wide that a pipe gets every cell whole.

    The environment's COLUMNS goes before both.
    """
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size().columns
    return 10_000
