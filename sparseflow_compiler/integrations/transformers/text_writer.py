"""A language model writes text in rounds: answers to messages of its own, and free text.

The messages come from the chat template alone: the model goes on where the user's turn begins, as in Magpie
(Xu et al., 2024, arXiv 2406.08464). That text of the model's own serves better than a corpus to calibrate on
is an observation of Williams et al. (2024, arXiv 2410.17711).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.own_text import (
    Generate,
    chat_begin,
    continued,
    end_tokens,
    first_token,
    up_to_end,
)
from sparseflow.runtime.calling.inference import device_of

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, PreTrainedTokenizerBase

MESSAGE_TOKENS = 48
"""The longest message that the model writes for itself."""

_MESSAGES = (
    *("", "What is", "How do I", "Why", "Explain", "Write", "Can you", "Give me", "Which", "Who", "Where"),
    *("Summarize", "Translate", "List", "Compare", "Describe", "Tell me about", "I need", "When", "Name"),
)
"""How messages begin."""

_OPENINGS = (
    *("The", "In", "A", "I", "It", "We", "This", "There", "When", "If", "For", "As", "He", "She", "They"),
    *("On", "At", "After", "One", "Many", "How", "What", "Why", "You", "My", "To", "An", "Some", "With"),
    *("According to", "Once upon a time", "Chapter 1", "Introduction", "Abstract", "Question:", "Dear"),
    *("The first", "In recent years", "Most people", "History of", "Step 1:", "Note that", "New", "By"),
    *("# ", "- ", "1. ", '"', "def ", "import ", "class ", "function ", "SELECT ", "<p>", "{", "Copyright"),
    *("La", "El", "Le", "Der", "Die", "En", "De", "O", "Il", "Les", "Das", "Un"),
)
"""How texts begin: prose, pages, lists, programs, and languages besides English."""

_MARK = "\ue000"
_MOST_AT_ONCE, _MOST_ON_CPU = 2048, 16
_CACHE_SHARE = 3
"""The part of a GPU's free memory that the cache may take is one by this: it is copied while it grows."""
_WIDEST = 0.75
"""Beginnings may take such a share of a text."""


class TextWriter:
    """Writes the text of one model.

    Messages, chats and free text are written one after the other, each by as many sequences, from beginnings
    padded to one length, into a cache of one length: a compiled model needs two programs for it, one for
    prompts and one for a token.

    Args:
        model: of transformers, in evaluation mode.
        tokenizer: with the model's chat template; without it, texts begin with a random token.
        length: the most tokens of a text.
        generate: as for `continued`.
        tokens: wanted in all, so that few are written as few texts of full length; None: as many as can be.
        temperature: of texts; messages are drawn at 1.

    Attributes:
        batch: texts of a round; an even number where half of them are chats.
        notes: what could not be written, in full sentences.

    Raises:
        ArgumentError: the model can't generate.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        length: int,
        generate: Generate | None = None,
        tokens: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        if generate is None and not getattr(model, "can_generate", lambda: False)():
            raise ArgumentError(
                f"the text of {type(model).__name__}", "the model can't generate", "pass text=…"
            )
        self._model, self._tokenizer, self._length, self._generate = model, tokenizer, length, generate
        self._temperature = temperature
        self.notes: list[str] = []
        wanted = _MOST_AT_ONCE if tokens is None else -(-tokens // length)
        self._before = self._user_turn()
        kinds = 1 if self._before is None else 2
        self._together = max(1, min(_at_once(model, length), -(-wanted // kinds)))
        self.batch = kinds * self._together
        self._openings = itertools.cycle(_OPENINGS)
        self._messages = itertools.cycle(_MESSAGES)
        self._width = min(self._widest(), max(1, int(_WIDEST * length)))

    def round(self, seconds: float | None = None) -> list[Tensor]:
        """Return `batch` texts, token ids ``[S]`` each, drawn by torch's generator, every other one a chat.

        All are written to their full length: where a text ends, the model begins another, in its own format.

        Args:
            seconds: after which it stops, with whatever there is; None: no limit.
        """
        begun = time.monotonic()

        def left(parts: int) -> float | None:
            return None if seconds is None else (seconds - (time.monotonic() - begun)) / parts

        chats: list[Tensor] = []
        if self._before is not None:
            begins = self._written_messages(left(4))
            chats = self._go_on(self._filled(begins), left(2))
        free = self._go_on(self._filled([]), left(1))
        mixed = itertools.chain.from_iterable(zip(chats, free, strict=True)) if chats else free
        # To their full length: rows that begin within a text, where nothing is seen of what was before,
        # serve worse to calibrate on.
        return [text[: self._length] for text in mixed]

    def _filled(self, begins: Sequence[Tensor]) -> list[Tensor]:
        """Return beginnings, and of free text as many as lack."""
        return [*begins, *(self._opening() for _ in range(self._together - len(begins)))]

    def _go_on(
        self, begins: Sequence[Tensor], seconds: float | None, stop_after: int | None = None
    ) -> list[Tensor]:
        return continued(
            self._model,
            [begin[: self._width] for begin in begins],
            self._length - 1,
            seconds=None if seconds is None else max(0.01, seconds),
            goes_on=True,
            width=self._width,
            stop_after=stop_after,
            temperature=self._temperature if stop_after is None else 1.0,
            generate=self._generate,
        )

    def _widest(self) -> int:
        """Return how many tokens a beginning has at most."""
        if self._tokenizer is None:
            return 2
        opening = max(len(self._ids(text, special=True)) for text in _OPENINGS)
        chat = 0 if self._before is None else len(chat_begin(self._tokenizer, "")) + MESSAGE_TOKENS
        return max(opening, chat)

    def _user_turn(self) -> str | None:
        """Return what the chat template writes before a user's message; None if there is no template."""
        if self._tokenizer is None:
            self.notes.append("There is no tokenizer: every text begins with a random token.")
            return None
        if self._tokenizer.chat_template is None:
            self.notes.append("The tokenizer has no chat template: all text is free text.")
            return None
        shown = self._tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
        before, found, _ = str(shown).partition(_MARK)
        if not found:
            self.notes.append("The chat template hides the user's message: all text is free text.")
            return None
        return before

    def _written_messages(self, seconds: float | None) -> list[Tensor]:
        """Return chats up to where the answer begins, one for each sequence; empty messages are left out."""
        assert self._tokenizer is not None
        texts = [f"{self._before}{next(self._messages)}" for _ in range(self._together)]
        begins = [self._ids(text, special=False) for text in texts]
        skip, ends = len(self._ids(str(self._before), special=False)), end_tokens(self._model)
        written = (up_to_end(row[skip:], ends) for row in self._go_on(begins, seconds, MESSAGE_TOKENS))
        messages = (str(self._tokenizer.decode(row, skip_special_tokens=True)).strip() for row in written)
        return [chat_begin(self._tokenizer, message) for message in messages if message]

    def _opening(self) -> Tensor:
        if self._tokenizer is not None:
            return self._ids(next(self._openings), special=True)
        drawn = torch.randint(self._model.config.get_text_config().vocab_size, (1,))
        return torch.cat((torch.tensor([first_token(self._model)]), drawn))

    def _ids(self, text: str, *, special: bool) -> Tensor:
        assert self._tokenizer is not None
        ids: Sequence[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return torch.tensor(ids or [first_token(self._model)])


def _at_once(model: PreTrainedModel, length: int) -> int:
    """Return how many texts are written together: on a GPU as many as its memory has caches for."""
    device = device_of(model)
    if device.type != "cuda":
        return _MOST_ON_CPU
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * length
    free, _ = torch.cuda.mem_get_info(device)
    return int(max(1, min(_MOST_AT_ONCE, free // _CACHE_SHARE // each)))
