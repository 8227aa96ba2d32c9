"""Transformers' `generate` over a compiled model, its static caches kept for the next call."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.arguments import returned_cache
from sparseflow.integrations.transformers.caches import lend_static_caches, static_cache

STEP = 128
"""Static caches hold a multiple of this many tokens: every length is a program of its own."""

KEPT = 4
"""Static caches that are kept."""


class Generator:
    """Runs `generate` of a model with a forward of ours.

    A static cache is kept and used again, so that programs and CUDA graphs made for it serve later calls.

    Args:
        model: a transformers model with a language-model head.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._free: list[tuple[int, int, Any]] = []
        self._lock = threading.Lock()

    def generate(self, compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As the model's own, with `compiled` in place of the model's forward.

        Raises:
            ArgumentError: the model has no `generate`.
        """
        if not hasattr(self._model, "generate"):
            raise ArgumentError(
                f"{type(self._model).__name__}.generate",
                "only transformers models with a language-model head generate",
                "compile such a model, or call the compiled model directly",
            )
        # transformers would torch.compile a forward that is compiled already.
        kwargs.setdefault("disable_compile", True)
        lent: list[tuple[int, int, Any]] = []
        result = self._routed(compiled, lent).generate(*args, **kwargs)
        given_away = returned_cache(result)
        with self._lock:
            self._free += [entry for entry in lent if entry[2] is not given_away]
            del self._free[:-KEPT]
        return result

    def _routed(self, compiled: Callable[..., Any], lent: list[tuple[int, int, Any]]) -> Any:
        """A shallow copy of the model with the compiled forward and with our static caches."""
        routed: Any = copy.copy(self._model)
        forward: Any = routed.forward

        # transformers reads the signature to decide which inputs to prepare: keep the original's.
        @functools.wraps(forward)
        def compiled_forward(*args: Any, **kwargs: Any) -> Any:
            return compiled(*args, **kwargs)

        def lend(batch: int, length: int) -> Any:
            entry = self._cache(batch, length)
            lent.append(entry)
            return entry[2]

        routed.forward = compiled_forward
        lend_static_caches(routed, lend)
        return routed

    def _cache(self, batch: int, length: int) -> tuple[int, int, Any]:
        """An empty static cache for so many sequences and at least so many tokens, the shortest free one."""
        with self._lock:
            fitting = [entry for entry in self._free if entry[0] == batch and entry[1] >= length]
            found = min(fitting, key=lambda entry: entry[1], default=None)
            self._free = [entry for entry in self._free if entry is not found]
        if found is not None:
            found[2].reset()
            return found
        rounded = -(-length // STEP) * STEP
        return batch, rounded, static_cache(self._model, rounded, batch)
