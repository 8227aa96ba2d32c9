"""The text that a pruned model is recovered on: what the dense model writes, and what the user gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, FinetuneError
from sparseflow.integrations.transformers.argument_names import generates
from sparseflow.integrations.transformers.masked_writing import SentenceWriter
from sparseflow.integrations.transformers.own_text import Generate
from sparseflow.integrations.transformers.text_writer import TextWriter
from sparseflow.pruning.calibration import Call, as_call

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, PreTrainedTokenizerBase
    from sparseflow.support.progress import Step

Text = str | Path | Tensor | Sequence[object]
"""A text or its file; token ids, 1-d; several of these, of which an encoder reads each by itself; or batches,
as calibration takes them."""

HELD_OUT, MOST_HELD_OUT = 16, 64
"""One row of so many is held out, at most `MOST_HELD_OUT` rows."""


class Writer(Protocol):
    """Writes texts in rounds."""

    batch: int
    notes: list[str]

    def round(self, seconds: float | None = None) -> list[Tensor]:
        """Return texts, token ids ``[S]`` each."""
        ...


@dataclass
class Rows:
    """Token ids ``[S]`` each, trained on or held out.

    Attributes:
        rows: in the order in which they were written.
        held: how many of them, from the first on, are held out.
        written: tokens that the model wrote.
        given: tokens of the user's.
        notes: remarks in full sentences.
    """

    rows: list[Tensor]
    held: int
    written: int = 0
    given: int = 0
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Return how many rows are trained on."""
        return len(self.rows) - self.held

    @property
    def whole(self) -> bool:
        """Whether all rows have one length, so that no batch needs padding."""
        return len(set(map(len, self.rows))) == 1

    @property
    def alike(self) -> bool:
        """Whether all batches have one shape, so that one recording serves every step."""
        return self.whole

    def training(self, places: Sequence[int]) -> Call:
        """Return the batch of some of the rows that are trained on."""
        return _padded([self.rows[self.held + place] for place in places])

    def held_out(self, size: int) -> list[Call]:
        """Return the held-out rows in batches of at most `size`."""
        kept = self.rows[: self.held]
        return [_padded(kept[at : at + size]) for at in range(0, len(kept), size)]

    def state(self) -> dict[str, object]:
        """Return all of it as tensors and plain values."""
        flat = torch.cat(self.rows).to(torch.int32)
        plain: dict[str, object] = {"held": self.held, "written": self.written, "given": self.given}
        return plain | {"flat": flat, "lengths": [len(row) for row in self.rows], "notes": self.notes}

    @classmethod
    def of(cls, state: dict[str, object]) -> Rows:
        """Return what `state` was made of."""
        values = dict(state)
        flat, lengths = cast(Tensor, values.pop("flat")), cast(list[int], values.pop("lengths"))
        return cls(list(torch.split(flat.long(), lengths)), **values)  # type: ignore[arg-type]


@dataclass
class Batches:
    """Batches that the user gave, of any kind of input; each makes one part of a step."""

    calls: list[Call]
    held: int
    written: int = 0
    given: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether batches are known to be rows of token ids of one length: nobody looks into these."""
        return False

    @property
    def alike(self) -> bool:
        """Whether all batches have one shape, so that one recording serves every step."""
        return len({_shapes(call) for call in self.calls}) == 1

    def __len__(self) -> int:
        """Return how many batches are trained on."""
        return len(self.calls) - self.held

    def training(self, places: Sequence[int]) -> Call:
        """Return the batch at the one place."""
        (place,) = places
        return self.calls[self.held + place]

    def held_out(self, size: int) -> list[Call]:
        """Return the held-out batches."""
        return self.calls[: self.held]

    def state(self) -> dict[str, object]:
        """Return nothing: the user gives the batches again."""
        return {}


Data = Rows | Batches


def _shapes(call: Call) -> tuple[object, ...]:
    """Return the shapes and dtypes of a batch's tensors, by position and name."""
    args, kwargs = call
    named = [*enumerate(args), *sorted(kwargs.items())]
    return tuple((name, x.shape, x.dtype) if isinstance(x, Tensor) else (name,) for name, x in named)


def _padded(rows: Sequence[Tensor]) -> Call:
    """Return rows as ``input_ids`` ``[rows, longest]``, with a mask where their lengths differ."""
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    if len({len(row) for row in rows}) == 1:
        return (), {"input_ids": ids}
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return (), {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Sources:
    """Where the text comes from.

    Attributes:
        dense: the model that writes.
        tokenizer: its own, or None.
        text: the user's, or None.
        share: of the user's text among all.
        length: tokens in a row.
        generate: as for `continued`, or None.
        temperature: as for `TextWriter`.
    """

    dense: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    text: Text | None
    share: float
    length: int
    generate: Generate | None
    temperature: float = 1.0

    def collect(self, tokens: int | None, left: Callable[[], float], step: Step) -> Data:
        """Return the user's text, and what the model writes beside it.

        Args:
            tokens: to write; None: as many as the time allows.
            left: returns the seconds that are left for writing.
            step: advances the progress bar.

        Raises:
            ArgumentError: the text is of no kind that the model reads, or the model can't write.
            FinetuneError: there is too little text to train on and to hold some out.
        """
        given = self._given()
        if isinstance(given, list) and given and not isinstance(given[0], Tensor):
            return _held_out(Batches(given, 0))
        rows = cast(list[Tensor], given)
        if self.share >= 1:
            return _held_out(Rows(rows, 0, 0, sum(map(len, rows)), ["Nothing was written: text_share is 1."]))
        written, notes = self._written(tokens, left, step)
        kept = _mixed(rows, written, self.share)
        counts = sum(map(len, written)), sum(map(len, kept)) - sum(map(len, written))
        return _held_out(Rows(kept, 0, *counts, notes))

    @property
    def _decodes(self) -> bool:
        """Whether the model is a decoder alone, which writes one token after the other."""
        encodes = getattr(getattr(self.dense, "config", None), "is_encoder_decoder", False)
        return generates(self.dense) and not encodes

    def _written(
        self, tokens: int | None, left: Callable[[], float], step: Step
    ) -> tuple[list[Tensor], list[str]]:
        """Return rows that the model wrote, and the writer's notes."""
        writer = self._writer(tokens)
        found: list[Tensor] = []
        count, begun, allowed = 0, time.monotonic(), max(left(), 1e-3)
        while (tokens is None or count < tokens) and left() > 0:
            texts = writer.round(left())
            found += texts
            count += sum(map(len, texts))
            done = (time.monotonic() - begun) / allowed
            step(int(100 * max(done, count / tokens if tokens else 0)), 100, f"{count:,} tokens")
        return self._rows(found), writer.notes

    def _writer(self, tokens: int | None) -> Writer:
        if self._decodes:
            model = cast("PreTrainedModel", self.dense)
            return TextWriter(model, self.tokenizer, self.length, self.generate, tokens, self.temperature)
        config = getattr(self.dense, "config", None)
        if not getattr(config, "vocab_size", 0) or getattr(config, "is_encoder_decoder", False):
            raise ArgumentError(
                f"sf.recover({type(self.dense).__name__})",
                "is neither a decoder that could write nor an encoder of tokens",
                "pass text=[…], batches of typical inputs",
            )
        return SentenceWriter(self.dense, self.tokenizer, self.length)

    def _given(self) -> list[Tensor] | list[Call]:
        """Return the user's text in rows, or the user's batches."""
        text = self.text
        if text is None:
            return []
        if isinstance(text, (str, Path, Tensor)):
            return self._rows([self._ids(text)])
        parts = list(text)
        if not parts:
            raise ArgumentError("sf.recover(text=[])", "holds nothing", "leave it out")
        if all(isinstance(part, (str, Path)) or _is_stream(part) for part in parts):
            return self._rows([self._ids(cast("str | Path | Tensor", part)) for part in parts])
        return [as_call(f"sf.recover(text=…)[{index}]", part) for index, part in enumerate(parts)]

    def _ids(self, text: str | Path | Tensor) -> Tensor:
        """Return the token ids of one text."""
        if isinstance(text, Tensor):
            if not _is_stream(text):
                shape = list(text.shape)
                raise ArgumentError("sf.recover(text=…)", f"must be 1-d token ids, not {text.dtype} {shape}")
            return text.long().cpu()
        if self.tokenizer is None:
            raise ArgumentError(
                "sf.recover(text=…)", "is text, and there is no tokenizer", "pass tokenizer=…"
            )
        try:
            words = text.read_text(encoding="utf-8") if isinstance(text, Path) else text
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"sf.recover(text={str(text)!r})", f"can't be read: {error}") from None
        return torch.tensor(self.tokenizer(words, verbose=False)["input_ids"], dtype=torch.int64)

    def _rows(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """Return a decoder's texts in rows of `length`, an encoder's each by itself.

        A row begins where a text does, as far as texts are long enough: what is left of them, and texts that
        are shorter, are laid end to end for the last rows.
        """
        if not self._decodes:
            return [text[: self.length] for text in texts if len(text)]
        wholes = [len(text) // self.length * self.length for text in texts]
        found = [row for text, whole in zip(texts, wholes, strict=True) for row in self._cut(text[:whole])]
        rest = [text[whole:] for text, whole in zip(texts, wholes, strict=True)]
        return found + (self._cut(torch.cat(rest)) if rest else [])

    def _cut(self, stream: Tensor) -> list[Tensor]:
        """Return the rows of a text, without what is left at its end."""
        return list(stream[: len(stream) // self.length * self.length].view(-1, self.length))


def _is_stream(part: object) -> bool:
    return isinstance(part, Tensor) and part.dim() == 1 and not part.is_floating_point()


def _mixed(given: list[Tensor], written: list[Tensor], share: float) -> list[Tensor]:
    """Return all written rows among as many given ones as make `share` of the whole, evenly spread."""
    if not given or not written:
        return [*given, *written]
    wanted = min(len(given), max(1, round(len(written) * share / (1 - share))))
    kept = [given[place * len(given) // wanted] for place in range(wanted)]
    places = [(place + 0.5) / len(kept) for place in range(len(kept))]
    others = [(place + 0.5) / len(written) for place in range(len(written))]
    ranked = sorted(zip([*places, *others], [*kept, *written], strict=True), key=lambda pair: pair[0])
    return [row for _, row in ranked]


def _held_out(data: Data) -> Data:
    """Hold out some rows or batches; texts of one round lie side by side, and so do those held out."""
    count = len(data)
    data.held = min(MOST_HELD_OUT, max(1, count // HELD_OUT))
    if count < 2:
        raise FinetuneError(
            "sf.recover",
            f"there is too little text: {count} rows or batches, and one of them is held out",
            "allow more minutes, shorter rows (length=…), or pass text=…",
        )
    return data
