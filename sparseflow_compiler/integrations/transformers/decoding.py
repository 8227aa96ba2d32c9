"""What transformers' `generate` asks of a decode loop, and what only its own can do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparseflow.integrations.transformers.argument_names import parameters
from sparseflow.integrations.transformers.static_caches import hand_over
from sparseflow.integrations.transformers.versions import require_transformers
from sparseflow.runtime.calling.cache_names import CACHE_NAMES, cache_name


@dataclass(frozen=True)
class Sampled:
    """A call of transformers' sampling loop, which also decodes greedily.

    Attributes:
        ids: the prompt, int64 `[batch, length]`.
        mask: 0 where it is padding; None without padding.
        positions: of its tokens, `[1 or batch, length]`; None for a model that takes none.
        max_length: tokens of a result at most, those of the prompt included.
        draws: whether tokens are drawn.
        top_k: how many of the likeliest are drawn from; 0 for all.
        top_p: the probability of those drawn from; None for all.
        temperature: what scores are divided by.
        penalty: of tokens that were there before; None for none.
        ignored: tokens at the front that it passes over.
        least: tokens that a sequence has before it may end, those of the prompt included; 0 for any.
        eos: the tokens that end a sequence, int64 `[any]`.
        pad: what follows an end.
        criteria: further conditions to stop.
        streamer: what gets the tokens.
        chunk: tokens of the prompt to run at once; None for all.
        options: constants to call forward with.
    """

    ids: Tensor
    mask: Tensor | None
    positions: Tensor | None
    max_length: int
    draws: bool
    eos: Tensor
    pad: int
    top_k: int = 0
    top_p: float | None = None
    temperature: float = 1.0
    penalty: float | None = None
    ignored: Tensor | int = 0
    least: int = 0
    criteria: Sequence[Callable[..., Tensor]] = ()
    streamer: Any = None
    chunk: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)


Decode = Callable[["Sampled | str"], "tuple[Tensor, object] | None"]
"""Decodes to tokens and a cache, or returns None for transformers to do it; a text is why it has to."""

_PROCESSORS: Mapping[str, Mapping[str, str]] = {
    "RepetitionPenaltyLogitsProcessor": {"penalty": "penalty", "ignored": "prompt_ignore_length"},
    "MinLengthLogitsProcessor": {},
    "MinNewTokensLengthLogitsProcessor": {},
    "TemperatureLogitsWarper": {"temperature": "temperature"},
    "TopKLogitsWarper": {"top_k": "top_k"},
    "TopPLogitsWarper": {"top_p": "top_p"},
}
"""The processors that are understood, in the order in which they must come, and the attributes they have.
Those of a least length are read by `_least`."""

_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
_KNOWN = {*CACHE_NAMES, "attention_mask", "position_ids", "use_cache", "logits_to_keep"}
_CONSTANTS = ("use_cache", "logits_to_keep", "return_dict")


def replace_sampling(routed: Any, decode: Decode) -> None:
    """Let `generate` of a model decode by `decode` where it would sample or decode greedily.

    Args:
        routed: a copy of the model, whose class is replaced.
        decode: the loop.
    """
    kind = type(routed)

    def sample(
        self: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        read = _read(
            self, input_ids, logits_processor, stopping_criteria, generation_config, streamer, kwargs
        )
        found = decode("synced_gpus was asked for" if synced_gpus else read)
        if found is not None:
            return _result(found, bool(generation_config.return_dict_in_generate))
        return kind._sample(
            self,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            synced_gpus=synced_gpus,
            streamer=streamer,
            **kwargs,
        )

    routed.__class__ = type(kind.__name__, (kind,), {"_sample": sample, "__module__": kind.__module__})


def _result(found: tuple[Tensor, object], fields: bool) -> Any:
    """Return what `generate` returns: the tokens, or an object of its own kind that has the cache too."""
    tokens, cache = found
    if not fields:
        return tokens
    kind = require_transformers("generate").generation.GenerateDecoderOnlyOutput
    name = cache_name(inspect.signature(kind).parameters)
    return kind(sequences=tokens, **({} if name is None else {name: hand_over(cache)}))


def _read(
    model: Any,
    ids: Tensor,
    processors: Any,
    criteria: Any,
    config: Any,
    streamer: Any,
    kwargs: Mapping[str, Any],
) -> Sampled | str:
    """Return what a call asks for, or why only transformers' loop can do it."""
    chosen = _processors(processors, bool(config.do_sample))
    if isinstance(chosen, str):
        return chosen
    if reason := _reason(model, ids, config, kwargs):
        return reason
    eos, stops, longest = _criteria(criteria)
    least = _least(processors, eos)
    if least is None:
        return "other tokens are held back for a least length than those that end a sequence"
    if longest is None:
        return "it has no greatest length"
    forward = parameters(model)
    positions = kwargs.get("position_ids") if "position_ids" in forward else None
    options = {name: kwargs[name] for name in _CONSTANTS if name in forward and name in kwargs}
    pad = config._pad_token_tensor
    return Sampled(
        ids=ids,
        mask=_padding(kwargs.get("attention_mask")),
        positions=positions,
        max_length=longest,
        draws=bool(config.do_sample),
        eos=eos.to(ids.device),
        pad=0 if pad is None else int(pad),
        least=least,
        criteria=stops,
        streamer=streamer,
        chunk=config.prefill_chunk_size,
        options=options,
        **chosen,
    )


def _reason(model: Any, ids: Tensor, config: Any, kwargs: Mapping[str, Any]) -> str:
    """Return why a call needs transformers' loop; empty if it doesn't."""
    if config.cache_implementation not in (None, "static"):
        return f"cache_implementation={config.cache_implementation!r} was asked for"
    if not config.use_cache:
        return "use_cache=False was asked for"
    asked = next((name for name in _OUTPUTS if getattr(config, name, False)), None)
    if asked is not None:
        return f"{asked}=True was asked for"
    others = [name for name, value in kwargs.items() if name not in _KNOWN and value is not None]
    if others:
        return f"forward takes {others[0]} beside the tokens"
    positions = kwargs.get("position_ids")
    if not ids.numel() or (positions is not None and positions.ndim != 2):
        return "the prompt is empty" if not ids.numel() else "a token has several positions"
    device = model.device
    return "" if ids.device == device else f"the prompt is on {ids.device}, the model on {device}"


def _processors(processors: Any, draws: bool) -> dict[str, Any] | str:
    """Return the numbers of the processors, or which one isn't understood."""
    found: dict[str, Any] = {}
    order = list(_PROCESSORS)
    last = -1
    for processor in processors:
        name = type(processor).__name__
        known = name in order and type(processor).__module__.partition(".")[0] == "transformers"
        if not known or order.index(name) <= last:
            return f"the logits processor {name} runs"
        last = order.index(name)
        values = {ours: getattr(processor, theirs, None) for ours, theirs in _PROCESSORS[name].items()}
        if getattr(processor, "min_tokens_to_keep", 1) != 1 and name == "TopPLogitsWarper":
            return "min_tokens_to_keep was asked for"
        if getattr(processor, "filter_value", -torch.inf) != -torch.inf:
            return "a filter_value was asked for"
        found.update({ours: value for ours, value in values.items() if value is not None})
    return (
        found
        if draws or found.keys() <= {"penalty", "ignored"}
        else "a processor draws though do_sample is off"
    )


def _least(processors: Any, eos: Tensor) -> int | None:
    """Return the tokens before which no sequence ends; None if other tokens than `eos` are held back."""
    least = 0
    for processor in processors:
        name = type(processor).__name__
        if name == "MinLengthLogitsProcessor":
            length = processor.min_length
        elif name == "MinNewTokensLengthLogitsProcessor":
            length = processor.prompt_length_to_skip + processor.min_new_tokens
        else:
            continue
        if set(processor.eos_token_id.flatten().tolist()) != set(eos.tolist()):
            return None
        least = max(least, length)
    return least


def _criteria(criteria: Any) -> tuple[Tensor, list[Any], int | None]:
    """Return the tokens that end a sequence, further conditions, and the greatest length."""
    eos, others, longest = torch.empty(0, dtype=torch.int64), [], None
    for criterion in criteria:
        name = type(criterion).__name__
        if name == "EosTokenCriteria":
            eos = torch.cat([eos, criterion.eos_token_id.reshape(-1).to("cpu")])
        elif name == "MaxLengthCriteria":
            longest = criterion.max_length if longest is None else min(longest, criterion.max_length)
        else:
            others.append(criterion)
    return eos, others, longest


def _padding(mask: Any) -> Tensor | None:
    """Return a mask if it hides anything, else None."""
    return None if mask is None or bool((mask == 1).all()) else mask
