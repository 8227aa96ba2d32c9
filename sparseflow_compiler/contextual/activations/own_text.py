"""Text that a language model writes itself, to choose thresholds on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.calling.inference import device_of

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, PreTrainedTokenizerBase

REQUESTS = (
    "Write a short story about a fisherman who finds a letter.",
    "Explain how a bicycle stays upright.",
    "What causes inflation, and what can a central bank do?",
    "Write a Python function that merges two sorted lists, and explain it.",
    "Give advice to somebody who leads a team for the first time.",
    "Describe the water cycle for a child.",
    "Write a letter to a friend about a journey by train.",
    "Summarize the history of the printing press.",
    "How do I set up a firewall on a Linux server?",
    "Compare solar and wind power in a table.",
    "What is the difference between a virus and a bacterium?",
    "Write a recipe for a vegetable soup for four.",
    "Prove that the square root of two is irrational.",
    "Draft an email that politely declines an invitation.",
    "Name ten proverbs and say what they mean.",
    "Tell me about the moons of Jupiter.",
)


def own_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, tokens: int, window: int, seed: int
) -> list[Tensor]:
    """Return windows ``[1, S]`` of what a model answers to `REQUESTS`, sampled at temperature 1.

    Args:
        model: of transformers.
        tokenizer: with the model's chat template; without one the model writes from its first token.
        tokens: how many together, about.
        window: the largest S.
        seed: of the sampling.

    Raises:
        ArgumentError: the model can't generate.
    """
    if not callable(getattr(model, "generate", None)):
        raise ArgumentError(
            "sf.calibrate_activations(text='self')",
            f"{type(model).__name__} can't generate",
            "pass text or token ids",
        )
    count = min(len(REQUESTS), max(1, -(-2 * tokens // window)))  # an answer fills about half a window
    begins = [_begin(model, tokenizer, request) for request in REQUESTS[:count]]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        written = _written(model, begins, window)
    return _first(written, tokens)


def _begin(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, request: str) -> Tensor:
    """Return the token ids ``[tokens]`` that the model goes on from."""
    if tokenizer is not None and tokenizer.chat_template is not None:
        message = [{"role": "user", "content": request}]
        made = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)
        return torch.tensor(made["input_ids"])
    first = getattr(model.config, "bos_token_id", None)
    return torch.tensor([first if isinstance(first, int) else 0])


def _written(model: PreTrainedModel, begins: Sequence[Tensor], window: int) -> list[Tensor]:
    """Return each beginning with what follows it, ``[1, S]``, written together."""
    longest, device = max(map(len, begins)), device_of(model)
    ends = model.generation_config.eos_token_id
    padding = ends[0] if isinstance(ends, list) else ends or 0
    batch = torch.full((len(begins), longest), padding)
    mask = torch.zeros_like(batch)
    for row, begin in enumerate(begins):
        batch[row, longest - len(begin) :], mask[row, longest - len(begin) :] = begin, 1
    whole: Tensor = model.generate(
        batch.to(device),
        attention_mask=mask.to(device),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max(window - longest, 1),
        pad_token_id=padding,
    )
    return [
        _trimmed(row[longest - len(begin) :], padding)[None] for row, begin in zip(whole, begins, strict=True)
    ]


def _trimmed(row: Tensor, padding: int) -> Tensor:
    kept = (row != padding).nonzero().flatten()
    return row[: int(kept[-1]) + 1] if len(kept) else row


def _first(written: Sequence[Tensor], tokens: int) -> list[Tensor]:
    found: list[Tensor] = []
    for part in written:
        if sum(one.shape[1] for one in found) < tokens:
            found.append(part)
    return found
