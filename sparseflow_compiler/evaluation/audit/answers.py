"""What a model answers: greedy continuations of prompts, and short questions with known answers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.evaluation.audit.intervals import Interval, bootstrap, wilson
from sparseflow.integrations.transformers.own_text import chat_begin, continued
from sparseflow.support.progress import Step

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, PreTrainedTokenizerBase

QUESTION_TOKENS = 24
"""The longest answer to a question that is read."""
_GRAM = 4
_FOLDER = Path(__file__).parent


def prompts() -> list[str]:
    """Return the 200 chat prompts."""
    return (_FOLDER / "prompts.txt").read_text(encoding="utf-8").splitlines()


def questions() -> list[tuple[str, tuple[str, ...]]]:
    """Return the 100 questions, each with the answers of which one must be a word of the model's."""
    lines = (_FOLDER / "questions.tsv").read_text(encoding="utf-8").splitlines()
    return [(question, tuple(right.split("|"))) for question, right in (line.split("\t") for line in lines)]


@dataclass(frozen=True)
class Answered:
    """One prompt.

    Attributes:
        prompt: the prompt.
        answer: the model's greedy answer.
        repetition: the share of its 4-grams of tokens that were in it before.
        dense: the dense model's answer; None without one, as what follows.
        dense_repetition: likewise.
        same: tokens before the first difference.
        exact: whether both answers are the same throughout.
    """

    prompt: str
    answer: str
    repetition: float
    dense: str | None = None
    dense_repetition: float | None = None
    same: int | None = None
    exact: bool | None = None


@dataclass(frozen=True)
class Questioned:
    """One question: whether the answer is right, and whether the dense model's is (None without one)."""

    question: str
    accepted: tuple[str, ...]
    answer: str
    right: bool
    dense: str | None = None
    dense_right: bool | None = None


@dataclass(frozen=True)
class Answers:
    """All prompts and questions, with the resampling's seed."""

    prompts: tuple[Answered, ...]
    questions: tuple[Questioned, ...]
    new_tokens: int
    seed: int

    def summary(self) -> dict[str, object]:
        """Return shares and means with their intervals, ready for JSON."""
        found: dict[str, object] = {}
        if self.prompts:
            found["repetition"] = self._mean([one.repetition for one in self.prompts])
        compared = [one for one in self.prompts if one.same is not None]
        if compared:
            found["dense_repetition"] = self._mean([one.dense_repetition or 0.0 for one in compared])
            found["same_tokens"] = self._mean([float(one.same or 0) for one in compared])
            found["same_tokens"] |= {"median": statistics.median(one.same or 0 for one in compared)}  # type: ignore[operator]
            found["exact"] = _share(sum(bool(one.exact) for one in compared), len(compared))
        if self.questions:
            found["right"] = _share(sum(one.right for one in self.questions), len(self.questions))
        known = [one for one in self.questions if one.dense_right]
        if any(one.dense_right is not None for one in self.questions):
            found["kept"] = _share(sum(one.right for one in known), len(known))
        return found

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        return {"summary": self.summary(), **asdict(self)}

    def _mean(self, values: Sequence[float]) -> dict[str, object]:
        return {"mean": statistics.fmean(values), "interval": list(bootstrap(values, self.seed))}


def _share(hits: int, count: int) -> dict[str, object]:
    interval: Interval = wilson(hits, count)
    return {"hits": hits, "of": count, "share": hits / count if count else None, "interval": list(interval)}


@dataclass(frozen=True)
class Speaker:
    """A model that answers greedily, some prompts at a time.

    Attributes:
        model: of transformers, in evaluation mode.
        tokenizer: its own.
        batch: prompts at a time.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch: int

    def answers(self, asked: Sequence[str], new_tokens: int, step: Step) -> list[Tensor]:
        """Return the tokens ``[S]`` of each answer, without what ends it."""
        begins = [self._begin(text) for text in asked]
        found: list[Tensor] = []
        for at in range(0, len(begins), self.batch):
            part = begins[at : at + self.batch]
            written = continued(self.model, part, new_tokens, draws=False)
            found += [row[len(begin) :] for row, begin in zip(written, part, strict=True)]
            step(len(found), len(begins), "answers")
        return found

    def text(self, tokens: Tensor) -> str:
        """Return an answer as text."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def _begin(self, text: str) -> Tensor:
        if self.tokenizer.chat_template is not None:
            return chat_begin(self.tokenizer, text)
        ids = self.tokenizer(f"{text}\n", return_tensors="pt")["input_ids"][0]
        if not len(ids):
            raise ArgumentError("the audit's tokenizer", f"makes no token of {text!r}", "use the model's own")
        begin: Tensor = ids
        return begin


def ask(
    speaker: Speaker, dense: Speaker | None, count: int, new_tokens: int, seed: int, step: Step
) -> Answers:
    """Let a model, and the dense one, answer the first `count` prompts and as many questions.

    Both read the same tokens in the same batches. A question is answered right if one of its accepted answers
    is a word, or several in a row, of the first `QUESTION_TOKENS` tokens.
    """
    asked = prompts()[:count]
    mine = speaker.answers(asked, new_tokens, step)
    theirs = dense.answers(asked, new_tokens, step) if dense else [None] * len(asked)
    answered = [_answered(speaker, *one) for one in zip(asked, mine, theirs, strict=True)]
    known = questions()[:count]
    texts = [f"{question} Answer in one word." for question, _ in known]
    short = [speaker.text(one) for one in speaker.answers(texts, QUESTION_TOKENS, step)]
    others: Sequence[str | None] = (
        [dense.text(one) for one in dense.answers(texts, QUESTION_TOKENS, step)]
        if dense
        else [None] * len(known)
    )
    questioned = [
        Questioned(
            question,
            right,
            answer,
            is_right(answer, right),
            other,
            None if other is None else is_right(other, right),
        )
        for (question, right), answer, other in zip(known, short, others, strict=True)
    ]
    return Answers(tuple(answered), tuple(questioned), new_tokens, seed)


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether an accepted answer is among the words; those of up to two letters in their own case."""
    return any(
        re.search(rf"(?<!\w){re.escape(one)}(?!\w)", answer, 0 if len(one) < 3 else re.IGNORECASE) is not None
        for one in accepted
    )


def repetition(tokens: Tensor) -> float:
    """Return the share of a text's 4-grams that were in it before; 0 if it is shorter."""
    ids = tokens.tolist()
    grams = [tuple(ids[at : at + _GRAM]) for at in range(len(ids) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _answered(speaker: Speaker, prompt: str, mine: Tensor, theirs: Tensor | None) -> Answered:
    if theirs is None:
        return Answered(prompt, speaker.text(mine), repetition(mine))
    shared = min(len(mine), len(theirs))
    differs = (mine[:shared] != theirs[:shared]).nonzero().flatten()
    same = int(differs[0]) if len(differs) else shared
    exact = same == len(mine) == len(theirs)
    return Answered(
        prompt, speaker.text(mine), repetition(mine), speaker.text(theirs), repetition(theirs), same, exact
    )
