"""Text that a language model writes itself, to calibrate and to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.calling.inference import device_of

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, PreTrainedTokenizerBase

Generate = Callable[..., Tensor]
"""`generate` of a transformers model, or of a compiled one."""

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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        written = continued(model, begins, max(window - max(map(len, begins)), 1))
    return _first([row[None] for row in written], tokens)


def chat_begin(tokenizer: PreTrainedTokenizerBase, request: str) -> Tensor:
    """Return the token ids ``[tokens]`` of a user's message, up to where the answer begins."""
    message = [{"role": "user", "content": request}]
    made = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)
    return torch.tensor(made["input_ids"])


def first_token(model: PreTrainedModel) -> int:
    """Return the token that a model's texts begin with; 0 if its configuration names none."""
    first = getattr(model.config, "bos_token_id", None)
    return first if isinstance(first, int) else 0


def end_tokens(model: PreTrainedModel) -> list[int]:
    """Return the tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return [] if ends is None else ends if isinstance(ends, list) else [ends]


def _begin(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, request: str) -> Tensor:
    """Return the token ids ``[tokens]`` that the model goes on from."""
    if tokenizer is not None and tokenizer.chat_template is not None:
        return chat_begin(tokenizer, request)
    return torch.tensor([first_token(model)])


@torch.no_grad()
def continued(
    model: PreTrainedModel,
    begins: Sequence[Tensor],
    new_tokens: int,
    *,
    draws: bool = True,
    temperature: float = 1.0,
    seconds: float | None = None,
    goes_on: bool = False,
    width: int = 0,
    stop_after: int | None = None,
    generate: Generate | None = None,
) -> list[Tensor]:
    """Return each beginning with what a model writes after it, ``[S]`` on the CPU.

    All are written together, padded on the left. A compiled model has a program for each number of
    beginnings, their padded length and the sum of that and `new_tokens`: keep to the same ones.

    Args:
        model: of transformers.
        begins: token ids ``[tokens]`` each, at least one.
        new_tokens: the most that follow a beginning.
        draws: sample from all tokens, by torch's generator; else take the likeliest.
        temperature: of the sampling.
        seconds: stop after the token during which they are over; None: no limit.
        goes_on: write on after a token that ends a text: what follows begins another one. A text that ends
            twice at once is cut there.
        width: pad beginnings to so many tokens at least.
        stop_after: write so many tokens of the `new_tokens` that there is room for; None: all.
        generate: writes in place of ``model.generate``, with the same arguments: that of a compiled model.
    """
    longest, device = max(width, *map(len, begins)), device_of(model)
    ends = end_tokens(model)
    padding = ends[0] if ends else 0
    batch = torch.full((len(begins), longest), padding)
    mask = torch.zeros_like(batch)
    for row, begin in enumerate(begins):
        batch[row, longest - len(begin) :], mask[row, longest - len(begin) :] = begin, 1
    how: dict[str, object] = {"do_sample": draws, "max_new_tokens": new_tokens, "pad_token_id": padding}
    if draws:
        how |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    if goes_on:
        how["eos_token_id"] = None
    if seconds is not None:
        how["max_time"] = seconds
    if stop_after is not None:
        how["stopping_criteria"] = [_longer_than(longest + stop_after)]
    whole = (generate or model.generate)(batch.to(device), attention_mask=mask.to(device), **how).cpu()
    written = (up_to_end(row[longest:], ends, goes_on=goes_on) for row in whole)
    return [torch.cat(pair) for pair in zip(begins, written, strict=True)]


def _longer_than(tokens: int) -> Callable[..., Tensor]:
    """Return a criterion that ends sequences of so many tokens.

    transformers' MaxLengthCriteria would also make the cache as short, which is a program of its own.
    """

    def ended(ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        return torch.full(ids.shape[:1], ids.shape[1] >= tokens, device=ids.device)

    return ended


def up_to_end(row: Tensor, ends: Sequence[int], *, goes_on: bool = False) -> Tensor:
    """Return the tokens before the first that ends a text; where it goes on, that ends an empty one."""
    ending = torch.isin(row, torch.tensor(ends, dtype=row.dtype))
    if goes_on:
        ending[1:] &= ending[:-1].clone()
        ending[:1] = False
    found = ending.nonzero().flatten()
    return row[: int(found[0])] if len(found) else row


def _first(written: Sequence[Tensor], tokens: int) -> list[Tensor]:
    found: list[Tensor] = []
    for part in written:
        if sum(one.shape[1] for one in found) < tokens:
            found.append(part)
    return found
