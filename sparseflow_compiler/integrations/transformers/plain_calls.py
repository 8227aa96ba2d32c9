"""Read calls of `generate` that use nothing of transformers but its rules, without importing it.

Importing transformers' models takes several times as long as loading an artifact. A call that passes tokens
and the usual options is read here by the rules of `GenerationMixin.generate`; every other is left to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparseflow.integrations.transformers.decoding import Sampled

if TYPE_CHECKING:
    from sparseflow.support.documents import Document

OPTIONS = ("do_sample", "temperature", "top_k", "top_p", "max_new_tokens", "eos_token_id", "pad_token_id")
"""Options of `generate` that are understood, which a model's generation configuration may set."""

_WARPING = ("temperature", "top_k", "top_p")
_ARGUMENTS = frozenset({"input_ids", "inputs", "attention_mask", "streamer", *OPTIONS})


def read_plain(args: tuple[object, ...], kwargs: Mapping[str, Any], defaults: Document) -> Sampled | str:
    """Return what a call of `generate` asks for, or why transformers has to read it.

    Args:
        args: of the call.
        kwargs: of the call.
        defaults: the values of `OPTIONS` that hold where the call says nothing.
    """
    unknown = sorted(kwargs.keys() - _ARGUMENTS)
    if unknown:
        return f"{unknown[0]} was passed"
    prompts = [*args, *(kwargs[name] for name in ("inputs", "input_ids") if name in kwargs)]
    ids = prompts[0] if len(prompts) == 1 else None
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 2 or not ids.numel():
        return "the prompt isn't one int64 tensor [batch, length]"
    options = {name: kwargs.get(name, defaults.get(name)) for name in OPTIONS}
    eos, pad = _tokens(options["eos_token_id"]), options["pad_token_id"]
    if eos is None or not (pad is None or _is_token(pad)):
        return "the tokens for end and padding aren't numbers"
    pad = eos[0] if pad is None and eos else pad
    if reason := _padding(ids, kwargs.get("attention_mask"), eos, pad) or _refused(options, kwargs):
        return reason
    draws = options["do_sample"] is True
    return Sampled(
        ids=ids,
        mask=None,
        positions=None,
        max_length=ids.shape[1] + options["max_new_tokens"],
        draws=draws,
        eos=torch.tensor(eos, dtype=torch.int64, device=ids.device),
        pad=0 if pad is None else pad,
        streamer=kwargs.get("streamer"),
        **({name: options[name] for name in _WARPING} if draws else {}),
    )


def _tokens(value: object) -> list[int] | None:
    """Return the tokens that end a sequence; None if they are anything else."""
    found: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    return found if all(map(_is_token, found)) else None


def _is_token(value: object) -> bool:
    return type(value) is int and value >= 0


def _padding(ids: Tensor, mask: object, eos: list[int], pad: int | None) -> str:
    """Return why there may be padding, or a warning of it; empty if there is neither."""
    if mask is None:
        if pad is not None and bool((ids == pad).any()) and (pad not in eos or len(ids) > 1):
            return "the prompt has the token for padding, without a mask"
        return "a batch without a mask ends with what pads it" if len(ids) > 1 and pad in eos else ""
    whole = isinstance(mask, Tensor) and mask.shape == ids.shape and bool((mask == 1).all())
    return "" if whole else "the prompt is padded"


def _refused(options: Mapping[str, Any], kwargs: Mapping[str, Any]) -> str:
    """Return which option has a value that transformers refuses or warns of; empty if none has."""
    count, draws = options["max_new_tokens"], options["do_sample"]
    if type(count) is not int or count < 1:
        return "max_new_tokens isn't given as a number above 0"
    if draws is not True and draws is not False:
        return "do_sample isn't True or False"
    if not draws:
        warned = [name for name in _WARPING if kwargs.get(name) is not None]
        return f"{warned[0]} was passed for greedy decoding" if warned else ""
    temperature, top_k, top_p = (options[name] for name in _WARPING)
    numbers = all(type(value) in (int, float) for value in (temperature, top_p)) and type(top_k) is int
    if not numbers or temperature <= 0 or top_k < 0 or not 0 < top_p <= 1:
        return "temperature, top_k or top_p isn't a number of its range"
    return ""
