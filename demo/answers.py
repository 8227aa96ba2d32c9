"""Answers of several forms of one language model to the same prompts, and how fast each writes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Generate = Callable[..., Tensor]
"""Of transformers: takes `input_ids` and options, returns prompt and answer, `[1, tokens]`."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote, up to where it ended, and the pace.

    Attributes:
        text: the answer.
        first: seconds to its first token, the prompt's processing.
        token: seconds for each further one.
    """

    text: str
    first: float
    token: float


def prompt_ids(tokenizer: Any, prompt: str) -> Tensor:
    """Return the token ids `[1, tokens]` of a request in the model's chat template."""
    message = [{"role": "user", "content": prompt}]
    made = tokenizer.apply_chat_template(
        message, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids: Tensor = made["input_ids"]
    return ids


def answer(generate: Generate, tokenizer: Any, ids: Tensor, tokens: int) -> Answer:
    """Let a model answer greedily: always so many tokens, of which the text ends where the model ends it."""
    first, _ = _timed(generate, ids, 1)
    whole, written = _timed(generate, ids, tokens)
    ends = (written == tokenizer.eos_token_id).nonzero().flatten().tolist()
    text = tokenizer.decode(written[: ends[0] if ends else tokens], skip_special_tokens=True)
    return Answer(text.strip() + ("" if ends else " …"), first, (whole - first) / (tokens - 1))


def answers(
    sides: Mapping[str, Generate], tokenizer: Any, prompts: Sequence[str], tokens: int
) -> dict[str, list[Answer]]:
    """Let each side answer each prompt, in turns, so that a busy machine slows all of them.

    Args:
        sides: their `generate` by name; each first answers once without being timed.
        tokenizer: the model's.
        prompts: the requests.
        tokens: to write, at least 2.

    Returns:
        The answers of each side, in the order of the prompts.
    """
    every = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    for generate in sides.values():
        _timed(generate, every[0], 3)
    found: dict[str, list[Answer]] = {name: [] for name in sides}
    for ids in every:
        for name, generate in sides.items():
            found[name].append(answer(generate, tokenizer, ids, tokens))
    return found


def pace(given: Sequence[Answer]) -> float:
    """Return tokens a second of the fastest answer: what else the machine does only slows the others."""
    return 1 / min(one.token for one in given)


@torch.no_grad()
def _timed(generate: Generate, ids: Tensor, tokens: int) -> tuple[float, Tensor]:
    """Return the seconds, and the new tokens `[tokens]`; the model's end doesn't end it."""
    start = time.perf_counter()
    whole = generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return time.perf_counter() - start, whole[0, ids.shape[1] :]
