"""Tell a decoder that every row of a batch is one sequence, without padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch import nn

from sparseflow.integrations.transformers.argument_names import generates
from sparseflow.integrations.transformers.versions import require_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_PLAIN = "sdpa"
_WHOLE = "sparseflow_whole_rows"
"""Transformers' name for its own sdpa once more: it makes no mask for an attention that it doesn't know."""


@contextmanager
def whole_rows(*models: nn.Module) -> Iterator[None]:
    """Within the block, let decoders attend causally over whole rows; every batch must consist of such.

    From a batch without a mask transformers reads in each call whether it is packed of several sequences. The
    host waits for the answer, and where it can't, as in a CUDA graph, there is a mask as if it were, with
    which no FlashAttention runs. A model that this doesn't suit stays as it is (`why_not_whole_rows`).
    """
    suited = [model for model in models if not why_not_whole_rows(model)]
    with ExitStack() as stack:
        for model in suited:
            stack.enter_context(_attending(model))
        yield


def why_not_whole_rows(model: nn.Module) -> str:
    """Return why a model can't be told so; empty if it can."""
    config = getattr(model, "config", None)
    if not generates(model) or getattr(config, "is_encoder_decoder", False):
        return "it is no decoder of transformers alone"
    if getattr(config, "_attn_implementation", None) != _PLAIN:
        return "its attention isn't sdpa"
    kinds = _layer_kinds(config.get_text_config(decoder=True))  # type: ignore[union-attr]
    return f"its layers have {sorted(kinds)[0]}" if kinds else ""


def _layer_kinds(config: PreTrainedConfig) -> set[str]:
    """Return the kinds of layers of a decoder that attend to less than all tokens before."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if not getattr(config, "layer_types", None) and getattr(config, "sliding_window", None):
        kinds.add("sliding_attention")
    return kinds


@contextmanager
def _attending(model: PreTrainedModel) -> Iterator[None]:
    transformers = require_transformers("whole rows")
    attend = transformers.integrations.sdpa_attention.sdpa_attention_forward
    transformers.AttentionInterface.register(_WHOLE, attend)
    model.set_attn_implementation(_WHOLE)
    try:
        yield
    finally:
        model.set_attn_implementation(_PLAIN)
