"""Suppression of progress bars, deprecations and advice that libraries print while a command runs."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

from sparseflow.cli.verbosity import Verbosity, verbosity
from sparseflow.errors import SparseFlowWarning

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress messages of torch and transformers below an error; errors and our own warnings stay.

    Messages that the user asked for stay too: ``python -W`` and PYTHONWARNINGS, TORCH_LOGS,
        TRANSFORMERS_VERBOSITY.
    All settings are restored at the end of the block.
    """
    from sparseflow.integrations.transformers.quiet import quiet as quiet_transformers
    from sparseflow.support.native_lines import hide_native_lines
    from sparseflow.support.torch_logs import torch_logs_without

    with ExitStack() as stack:
        stack.enter_context(_own_warnings())
        import torch  # noqa: F401  # whose loggers must be there

        stack.enter_context(torch_logs_without(lambda record: record.levelno < logging.ERROR))
        stack.enter_context(quiet_transformers())
        stack.enter_context(hide_native_lines())
        yield


def quietly(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command run within `quiet_libraries`, unless -v asks what libraries say."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with nullcontext() if verbosity() is Verbosity.VERBOSE else quiet_libraries():
            return command(*args, **kwargs)

    return run


@contextmanager
def _own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            if verbosity() is not Verbosity.QUIET:
                warnings.simplefilter("default", SparseFlowWarning)
        yield
