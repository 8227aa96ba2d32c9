"""Run transformers' `generate` over a compiled model, reusing its static caches."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError
from sparseflow.execution.routing import compiled_forward, with_compiled
from sparseflow.integrations.transformers.arguments import returned_cache
from sparseflow.integrations.transformers.static_caches import static_cache, supply_static_caches

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, StaticCache

STEP = 128
"""Static caches hold a multiple of this many tokens: every length is a program of its own."""

KEPT = 4
"""Static caches that are kept."""


class Generator:
    """Run a model's `generate` with a compiled forward.

    Static caches are reused, so that programs and CUDA graphs made for them serve later calls.

    Args:
        model: a transformers model with a language-model head.
        part: compiles another function of the model, given a name for it.
    """

    def __init__(
        self, model: PreTrainedModel, part: Callable[[str, Callable[..., object]], Callable[..., object]]
    ) -> None:
        self._model, self._part = model, part
        self._free: list[tuple[int, int, StaticCache]] = []
        self._lock = threading.Lock()

    def generate(self, compiled: Callable[..., object], *args: object, **kwargs: object) -> object:
        """Run the model's `generate` with `compiled` in place of its forward.

        Raises:
            ArgumentError: the model has no `generate`.
        """
        if not hasattr(self._model, "generate"):
            raise ArgumentError(
                f"{type(self._model).__name__}.generate",
                "only transformers models with a language-model head generate",
                "compile such a model, or call the compiled model directly",
            )
        # transformers would torch.compile the already compiled forward.
        kwargs.setdefault("disable_compile", True)
        lent: list[tuple[int, int, StaticCache]] = []
        result = self._routed(compiled, lent).generate(*args, **kwargs)
        given_away = returned_cache(result)
        with self._lock:
            self._free += [entry for entry in lent if entry[2] is not given_away]
            del self._free[:-KEPT]
        return result

    def _routed(
        self, compiled: Callable[..., object], lent: list[tuple[int, int, StaticCache]]
    ) -> PreTrainedModel:
        """Return a shallow copy of the model with the compiled forward and the kept static caches."""
        routed = copy.copy(self._model)

        def lend(batch: int, length: int) -> object:
            entry = self._cache(batch, length)
            lent.append(entry)
            return entry[2]

        # transformers reads the signature to decide which inputs to prepare: it is the original's.
        routed.forward = compiled_forward(self._model, compiled)
        self._route_encoder(routed)
        supply_static_caches(routed, lend)
        return routed

    def _route_encoder(self, routed: PreTrainedModel) -> None:
        """Compile the encoder of an encoder-decoder too, which `generate` calls directly."""
        if not getattr(routed.config, "is_encoder_decoder", False):
            return
        encoder = routed.get_encoder()
        path = next((name for name, module in self._model.named_modules() if module is encoder), "")
        if path:
            with_compiled(routed, path, self._part(path, encoder.forward))

    def _cache(self, batch: int, length: int) -> tuple[int, int, StaticCache]:
        """Return the shortest free static cache for a batch size and at least a length, emptied."""
        with self._lock:
            fitting = [entry for entry in self._free if entry[0] == batch and entry[1] >= length]
            found = min(fitting, key=lambda entry: entry[1], default=None)
            self._free = [entry for entry in self._free if entry is not found]
        if found is not None:
            found[2].reset()
            return found
        rounded = -(-length // STEP) * STEP
        return batch, rounded, static_cache(self._model, rounded, batch)
