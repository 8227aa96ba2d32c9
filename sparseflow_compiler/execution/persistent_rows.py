"""Programs that quantise rows in each call: kernels of inductor that hold a whole row, where they are faster.

inductor keeps rows of up to 1024 in registers. Longer ones are read, and what made them is computed, once for
each reduction over them: twice to be quantised, three times after a norm. Under `WHOLE_ROWS` it also makes
kernels that hold rows of up to 16 thousand, and takes what it measures to be faster.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import fx

import sparseflow.runtime.fp8  # noqa: F401  # registers linear_fp8
from sparseflow.errors import SlowerWarning
from sparseflow.execution.by_inductor import Inputs, compile_by_inductor
from sparseflow.support.user_warnings import warn

WHOLE_ROWS = {"triton.multi_kernel": 1}

NO_FILE = "TORCHINDUCTOR_DISABLE_MULTI_KERNEL_CACHE"
"""torch's variable that makes a choice among kernels last for a process."""

_ROWS_IN_FP8 = torch.ops.sparseflow.linear_fp8.default


def quantizes(graph: fx.GraphModule) -> bool:
    """Return whether a program has layers that quantise rows of their inputs."""
    return any(node.target is _ROWS_IN_FP8 for node in graph.graph.nodes)


def compile_with_whole_rows(
    graph: fx.GraphModule, inputs: Inputs, options: Mapping[str, object]
) -> Callable[..., object]:
    """Compile by inductor under `WHOLE_ROWS`; where it fails at that, without, and say so.

    Args:
        graph: as torch.compile gives it to a backend.
        inputs: its example inputs.
        options: further options of inductor.
    """
    spare = fx.GraphModule(graph, copy.deepcopy(graph.graph))  # compiling may change a graph
    try:
        with choosing_anew():
            return compile_by_inductor(graph, inputs, {**options, **WHOLE_ROWS})
    except Exception as error:  # inductor raises what its code happens to
        compiled = compile_by_inductor(spare, inputs, options)
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        warn(f"inductor goes over long rows several times, as it failed to hold them: {why}", SlowerWarning)
        return compiled


@contextlib.contextmanager
def choosing_anew() -> Iterator[None]:
    """Have programs that are loaded inside choose among their kernels when they first run, not by a file.

    To find the file, inductor asks kernels for a key, which those that torch 2.11 takes from its cache can't
    give: the second process that compiled a program failed.
    """
    before = os.environ.get(NO_FILE)
    os.environ[NO_FILE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_FILE]
        else:
            os.environ[NO_FILE] = before
