"""Make static KV caches, rewind them and pass them to `generate`; turn caches off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from sparseflow.integrations.transformers.versions import require_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, StaticCache

_PLAIN, _WINDOWED = "StaticLayer", "StaticSlidingWindowLayer"

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


def whole_cache(model: PreTrainedModel, length: int, batch: int) -> StaticCache:
    """Return an empty static cache in which layers that attend to a window hold all tokens too.

    Which of them are in the window, the mask says. So nothing in the cache moves from token to token, and no
    number of Python counts along: one program, or one CUDA graph, serves every token.

    Args:
        model: whose cache it will be; `why_not_whole` has nothing against it.
        length: tokens that it holds.
        batch: sequences.
    """
    transformers = require_transformers("a static cache")
    cache = transformers.StaticCache(config=model.config.get_text_config(decoder=True), max_cache_len=length)
    plain = transformers.cache_utils.StaticLayer
    cache.layers = [plain(max_cache_len=length) for _ in cache.layers]
    heads, width = model._get_static_cache_init_shape()
    cache.early_initialization(batch, heads, width, dtype=model.dtype, device=model.device)
    for layer in cache.layers:
        # Nothing reads it, and a program is for one value of whatever is no tensor.
        vars(layer).pop("batch_size", None)
    return cache


def hand_over(cache: StaticCache) -> StaticCache:
    """Return a `whole_cache` with all that its class promises, for whoever gets it."""
    for layer in cache.layers:
        layer.batch_size = layer.keys.shape[0]
    return cache


def why_not_whole(model: PreTrainedModel) -> str:
    """Return why a model can't have a `whole_cache`; empty if it can."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "the model decodes over an encoder"
    if not getattr(model, "_can_compile_fullgraph", False):
        return "the model has no static cache"
    if _head_sizes(model) is None:
        return "nobody knows the sizes of the model's cache"
    decoder = config.get_text_config(decoder=True)
    cache = require_transformers("a static cache").StaticCache(config=decoder, max_cache_len=1)
    kinds = {type(layer).__name__ for layer in cache.layers}
    chunked = "chunked_attention" in (getattr(decoder, "layer_types", None) or ())
    others = sorted(kinds - {_PLAIN, _WINDOWED}) + ["chunked attention"] * chunked
    return f"the model's cache has {others[0]}" if others else ""


def rewind(cache: StaticCache, length: int) -> None:
    """Make a static cache forget all tokens but the first `length`, in place."""
    for layer in cache.layers:
        layer.cumulative_length.fill_(length)


def empty(cache: StaticCache) -> None:
    """Make a `whole_cache`, or what stands for one, as it was made: without tokens, of zeros."""
    for layer in cache.layers:
        layer.keys.zero_()
        layer.values.zero_()
    rewind(cache, 0)


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
