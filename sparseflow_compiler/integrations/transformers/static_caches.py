"""Make static KV caches, rewind them and pass them to `generate`; turn caches off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from sparseflow.integrations.transformers.versions import require_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, StaticCache

MakeCache = Callable[[int, int], object]
"""Returns a static cache for a number of sequences and at least a number of tokens."""


def static_cache(model: PreTrainedModel, length: int, batch: int | None = None) -> StaticCache:
    """Return an empty static cache for a model.

    Args:
        model: the model that will use it.
        length: the number of tokens that it holds.
        batch: the number of sequences; if given, and the sizes are known, the tensors are allocated at once,
            so that one program serves both the empty and the filled cache.
    """
    kind = require_transformers("a static cache").StaticCache
    cache = kind(config=model.config.get_text_config(decoder=True), max_cache_len=length)
    sizes = _head_sizes(model) if batch is not None else None
    if sizes is not None:
        cache.early_initialization(batch, *sizes, dtype=model.dtype, device=model.device)
    return cache


def rewind(cache: StaticCache, length: int) -> None:
    """Make a static cache forget all tokens but the first `length`, in place."""
    for layer in cache.layers:
        layer.cumulative_length.fill_(length)


def supply_static_caches(routed: PreTrainedModel, make: MakeCache) -> None:
    """Make `generate` of a model take its static caches from `make`.

    Args:
        routed: a copy of the model, whose attributes may be set. Encoder-decoders keep their own caches.
        make: returns a cache.
    """
    prepare: Callable[..., object] | None = getattr(routed, "_prepare_static_cache", None)
    if prepare is None or routed.config.is_encoder_decoder:
        return

    def static(cache_implementation: str, batch_size: int, max_cache_len: int, **more: object) -> object:
        if cache_implementation != "static":
            return prepare(cache_implementation, batch_size, max_cache_len, **more)
        return make(batch_size, max_cache_len)

    routed._prepare_static_cache = static


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Within the block, turn off the KV cache: with it a second run of a layer differs from the first."""
    held = (getattr(module, "config", None) for module in model.modules())
    configs: list[PreTrainedConfig] = list(
        {id(c): c for c in held if getattr(c, "use_cache", False)}.values()
    )
    try:
        for config in configs:
            config.use_cache = False
        yield
    finally:
        for config in configs:
            config.use_cache = True


def _head_sizes(model: object) -> tuple[object, object] | None:
    """Return heads and head dimension of a static cache, for each layer or for all; None if unknown."""
    known: tuple[object, object] | None = getattr(model, "_get_static_cache_init_shape", lambda: None)()
    return known
