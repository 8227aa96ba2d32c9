"""What decoding carries from token to token, in tensors that stay where they are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sparseflow.execution.decoding.request import Request
from sparseflow.execution.decoding.sampling import Knobs, Sampling, choose, held_back


@dataclass(frozen=True)
class State:
    """The state of decoding a batch, over a cache of some length.

    Attributes:
        token: the last token of each sequence, int64 `[batch, 1]`.
        position: its position, int64 `[batch, 1]`.
        tokens: all tokens so far, int64 `[batch, length]`.
        count: how many they are, int64 `[1]`.
        lengths: of each sequence, its end included, int64 `[batch]`.
        unfinished: which sequences go on, bool `[batch]`.
        eos: the tokens that end one, int64 `[any]`.
        pad: what follows an end, int64 `[1]`.
        knobs: as `choose` takes them.
        seen: the tokens that each sequence has, bool `[batch, vocabulary]`, if repetition is penalized.
    """

    token: Tensor
    position: Tensor
    tokens: Tensor
    count: Tensor
    lengths: Tensor
    unfinished: Tensor
    eos: Tensor
    pad: Tensor
    knobs: Tensor
    seen: Tensor | None

    @classmethod
    def make(cls, request: Request, length: int, vocabulary: int, device: torch.device) -> State:
        """Allocate the state of requests like this one.

        Args:
            request: says how many sequences there are, and what is needed to choose tokens.
            length: tokens that a sequence may have.
            vocabulary: tokens that there are.
            device: of all tensors.
        """
        batch = request.ids.shape[0]
        ids = torch.zeros(batch, length, dtype=torch.int64, device=device)
        seen = torch.zeros(batch, vocabulary, dtype=torch.bool, device=device)
        return cls(
            token=ids[:, :1].clone(),
            position=ids[:, :1].clone(),
            tokens=ids,
            count=ids.new_zeros(1),
            lengths=ids.new_zeros(batch),
            unfinished=torch.ones(batch, dtype=torch.bool, device=device),
            eos=request.eos.to(device).clone(),
            pad=ids.new_zeros(1),
            knobs=torch.tensor(Knobs().values(), device=device),
            seen=seen if request.sampling.penalizes else None,
        )

    def start(self, request: Request) -> None:
        """Begin with a prompt."""
        batch, length = request.ids.shape
        self.tokens[:, :length] = request.ids
        self.count.fill_(length)
        self.lengths.fill_(length)
        self.unfinished.fill_(True)
        self.eos.copy_(request.eos)
        self.pad.fill_(request.pad)
        self.knobs.copy_(torch.tensor(request.knobs.values()))
        if request.positions is not None:
            # The step adds one before the first token that it reads is at its place.
            self.position.copy_(request.positions[:, -1:].expand(batch, 1))
        if self.seen is not None:
            self.seen.zero_()
            _mark(self.seen, request)

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in the order in which `of` takes them."""
        found = [self.token, self.position, self.tokens, self.count, self.lengths]
        found += [self.unfinished, self.eos, self.pad, self.knobs]
        return found if self.seen is None else [*found, self.seen]

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> State:
        """Return the state of some tensors, as `tensors()` gives them."""
        named: dict[str, Any] = dict(zip((f.name for f in fields(cls)), tensors, strict=False))
        return cls(**{"seen": None, **named})


def advance(sampling: Sampling, logits: Tensor, *tensors: Tensor) -> None:
    """Choose the next tokens and write them into the state.

    Args:
        sampling: how to choose.
        logits: of the model, `[batch, tokens, vocabulary]`; the last token's are used.
        tensors: those of the state, which are written.
    """
    state = State.of(tensors)
    held = held_back(logits.shape[-1], state.eos, state.count, state.knobs) if sampling.waits else None
    chosen = choose(logits[:, -1], sampling, state.knobs, state.seen, held)
    chosen = torch.where(state.unfinished, chosen, state.pad).unsqueeze(1)
    state.token.copy_(chosen)
    state.position.add_(1)
    state.tokens.index_copy_(1, state.count, chosen)
    state.count.add_(1)
    state.lengths.add_(state.unfinished)
    state.unfinished.logical_and_((chosen != state.eos).all(-1))
    if state.seen is not None:
        state.seen.scatter_(1, chosen, True)


def _mark(seen: Tensor, request: Request) -> None:
    """Note the prompt's tokens, except those that the penalty passes over."""
    ids = request.ids.to(seen.device)
    places = torch.arange(ids.shape[1], device=seen.device)
    ignored = torch.as_tensor(request.ignored, device=seen.device).reshape(-1, 1)
    counted = (places >= ignored).expand(ids.shape)
    rows, columns = counted.nonzero(as_tuple=True)
    seen[rows, ids[rows, columns]] = True
