"""What a call of `generate` asks for, in terms of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from sparseflow.execution.decoding.sampling import Knobs, Sampling


class Streamer(Protocol):
    """What tokens are handed to as they come."""

    def put(self, value: Tensor) -> None:
        """Take the next token of each sequence, on the CPU."""

    def end(self) -> None:
        """Learn that there are no more."""


@dataclass(frozen=True)
class Request:
    """A prompt and how to go on from it.

    Attributes:
        ids: the prompt, int64 `[batch, length]`.
        mask: 0 where it is padding, of the shape of `ids`; None without padding.
        positions: of its tokens, int64 `[1 or batch, length]`; None for a model that takes none.
        max_length: tokens of the result at most, those of the prompt included.
        sampling: how tokens are chosen.
        knobs: the numbers that this takes.
        ignored: how many tokens at the front of each sequence the repetition penalty passes over.
        eos: the tokens that end a sequence, int64 `[any]`.
        pad: what follows the end of a sequence.
        criteria: further conditions, called after each token with the sequences so far; True ends one.
        streamer: what gets the tokens.
        chunk: tokens of the prompt that are run at once; None for all.
        options: constants that the model's forward is called with.
    """

    ids: Tensor
    mask: Tensor | None
    positions: Tensor | None
    max_length: int
    sampling: Sampling
    knobs: Knobs
    eos: Tensor
    pad: int
    ignored: Tensor | int = 0
    criteria: Sequence[Callable[..., Tensor]] = ()
    streamer: Streamer | None = None
    chunk: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def can_end(self) -> bool:
        """Whether a sequence can end before it has its greatest length."""
        return self.eos.numel() > 0 or bool(self.criteria)
