"""What a model that leaves inputs out answers to chat prompts, beside the dense model's greedy answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from leaving_out import leaving_out, prompts
from torch import Tensor, nn

from sparseflow.evaluation.audit import answers as audit
from sparseflow.evaluation.audit.intervals import wilson
from sparseflow.integrations.transformers.own_text import chat_begin


@dataclass
class DenseAnswers:
    """The dense model's greedy answers.

    Attributes:
        asked: the prompts.
        begins: their tokens ``[S]``.
        answers: the tokens ``[S]`` after them.
    """

    asked: Sequence[str]
    begins: list[Tensor]
    answers: list[Tensor]
    tokenizer: Any
    new_tokens: int
    batch: int

    @classmethod
    def of(cls, model: Any, tokenizer: Any, count: int, new_tokens: int, batch: int) -> DenseAnswers:
        """Let a model answer the first `count` prompts."""
        asked = audit.prompts()[:count]
        begins = [chat_begin(tokenizer, text) for text in asked]
        found = audit.Speaker(model, tokenizer, batch).answers(asked, new_tokens, lambda *_: None)
        return cls(asked, begins, found, tokenizer, new_tokens, batch)

    def beside(
        self, model: Any, limits: Mapping[str, float], weights: int
    ) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Compare a model whose prompts are read in full, and whose answers leave inputs out.

        Returns:
            Shares and counts; and each prompt with both answers.
        """
        speaker = audit.Speaker(model, self.tokenizer, self.batch)
        with leaving_out(model, limits, prompts, weights) as saved:
            mine = speaker.answers(self.asked, self.new_tokens, lambda *_: None)
        until = [_until(one, other) for one, other in zip(mine, self.answers, strict=True)]
        exact = sum(torch.equal(one, other) for one, other in zip(mine, self.answers, strict=True))
        same, of = self._same_after_dense(model, limits, weights)
        tokens = sum(map(len, self.answers))
        about = {
            "prompts": len(self.asked),
            "tokens": tokens,
            "same": round(same / max(of, 1), 4),
            "same_interval": [round(end, 4) for end in wilson(same, of)],
            "before_the_first_other": round(sum(until) / max(tokens, 1), 4),
            "exact": exact,
            "saved": round(saved.share, 4),
        }
        texts = [
            {"prompt": asked, "dense": speaker.text(other), "answer": speaker.text(one)}
            for asked, one, other in zip(self.asked, mine, self.answers, strict=True)
        ]
        return about, texts

    @torch.no_grad()
    def _same_after_dense(
        self, model: nn.Module, limits: Mapping[str, float], weights: int
    ) -> tuple[int, int]:
        """Return at how many tokens of the dense answers the model takes the same, and of how many.

        It reads the dense answer so far. The first token follows from the prompt alone, and isn't counted.
        """
        device = next(model.parameters()).device
        pairs = [pair for pair in zip(self.begins, self.answers, strict=True) if len(pair[1]) > 1]
        same = of = 0
        for at in range(0, len(pairs), self.batch):
            some = pairs[at : at + self.batch]
            whole = nn.utils.rnn.pad_sequence([torch.cat(pair) for pair in some], batch_first=True).to(device)
            place = torch.arange(whole.shape[1], device=device)
            first = torch.tensor([len(begin) for begin, _ in some], device=device)[:, None]
            last = first + torch.tensor([len(answer) for _, answer in some], device=device)[:, None]
            full = (place < first)[..., None]
            with leaving_out(model, limits, lambda x, full=full: full, weights):  # type: ignore[misc]
                predicted = model(whole).logits.argmax(-1)
            counted = (place[1:] > first) & (place[1:] < last)
            same += int((counted & (predicted[:, :-1] == whole[:, 1:])).sum())
            of += int(counted.sum())
        return same, of


def _until(one: Tensor, other: Tensor) -> int:
    """Return how many tokens are the same before the first that differs."""
    shared = min(len(one), len(other))
    differs = (one[:shared] != other[:shared]).nonzero().flatten()
    return int(differs[0]) if len(differs) else shared
