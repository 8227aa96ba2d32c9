"""Transformers' `generate` over a compiled model, its static caches kept for the next call."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.execution.routing import compiled_forward, with_compiled
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
        part: compiles a function of the model beside its forward, by a name of it.
    """

    def __init__(
        self, model: nn.Module, part: Callable[[str, Callable[..., object]], Callable[..., object]]
    ) -> None:
        self._model, self._part = model, part
        self._free: list[tuple[int, int, Any]] = []
        self._lock = threading.Lock()

    def generate(self, compiled: Callable[..., object], *args: object, **kwargs: object) -> Any:
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

    def _routed(self, compiled: Callable[..., object], lent: list[tuple[int, int, object]]) -> Any:
        """A shallow copy of the model with the compiled forward and with our static caches."""
        routed: Any = copy.copy(self._model)

        def lend(batch: int, length: int) -> object:
            entry = self._cache(batch, length)
            lent.append(entry)
            return entry[2]

        # transformers reads the signature to decide which inputs to prepare: it is the original's.
        routed.forward = compiled_forward(self._model, compiled)
        self._route_encoder(routed)
        lend_static_caches(routed, lend)
        return routed

    def _route_encoder(self, routed: Any) -> None:
        """Let an encoder-decoder's encoder, which `generate` calls by itself, run compiled too."""
        if not getattr(routed.config, "is_encoder_decoder", False):
            return
        encoder = routed.get_encoder()
        path = next((name for name, module in self._model.named_modules() if module is encoder), "")
        if path:
            with_compiled(routed, path, self._part(path, encoder.forward))

    def _cache(self, batch: int, length: int) -> tuple[int, int, object]:
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
