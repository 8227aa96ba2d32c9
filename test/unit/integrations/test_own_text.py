"""Text that a model writes itself: where texts end, and where they go on."""

from __future__ import annotations

import pytest
import torch
import zoo

from sparseflow.finetune.recovery_text import Sources
from sparseflow.integrations.transformers.own_text import continued
from sparseflow.integrations.transformers.text_writer import TextWriter

END = 2


@pytest.fixture(scope="module")
def ending():
    """Return a model that ends a text after every few tokens."""
    torch.manual_seed(0)
    model = zoo.text_model("llama")
    model.generation_config.eos_token_id = END
    head = model.lm_head.register_forward_hook(lambda module, args, logits: _likely(logits))
    yield model
    head.remove()


def _likely(logits):
    logits[..., END] += 3.0
    return logits


BEGINS = [torch.tensor([1]), torch.tensor([1, 5, 6])]


def test_a_text_stops_before_the_token_that_ends_it(ending):
    torch.manual_seed(1)
    for begin, text in zip(BEGINS, continued(ending, BEGINS, 200), strict=True):
        assert torch.equal(text[: len(begin)], begin)
        assert END not in text
        assert len(text) < 200


def test_where_a_text_ends_another_begins(ending):
    torch.manual_seed(1)
    for begin, text in zip(BEGINS, continued(ending, BEGINS, 24, goes_on=True), strict=True):
        assert torch.equal(text[: len(begin)], begin)
        ends = text == END
        assert not (ends[1:] & ends[:-1]).any(), "an empty text is cut"
        assert len(text) == len(begin) + 24 or text[-1] == END
    assert ending.generation_config.eos_token_id == END


def test_a_writer_fills_its_rows():
    torch.manual_seed(0)
    model = zoo.text_model("llama")
    model.generation_config.eos_token_id = END
    writer = TextWriter(model, None, 16)
    texts = [text for _ in range(4) for text in writer.round()]
    assert {len(text) for text in texts} == {16}
    assert any(END in text for text in texts), "a text ended within a row"


def test_rows_begin_where_texts_do():
    model = zoo.text_model("llama")
    texts = [torch.arange(1, 1 + count) for count in (20, 7, 40)]
    found = Sources(model, None, texts, 1.0, 16, None).collect(None, lambda: 1.0, lambda *_: None)
    rows = [
        texts[0][:16],
        texts[2][:16],
        texts[2][16:32],
        torch.cat([texts[0][16:], texts[1], texts[2][32:]])[:16],
    ]
    assert torch.equal(torch.stack(found.rows), torch.stack(rows))


def test_few_tokens_are_written_as_few_texts_of_full_length():
    model = zoo.text_model("llama")
    assert TextWriter(model, None, 16, tokens=40).batch == 3
    assert TextWriter(model, None, 16, tokens=1).batch == 1
    assert TextWriter(model, None, 16).batch == TextWriter(model, None, 16, tokens=10**6).batch


def test_every_round_asks_for_sequences_of_one_shape():
    """A compiled model has a program for each number of sequences, their padded length and their room."""
    torch.manual_seed(0)
    model = zoo.text_model("llama")
    template = "{% for message in messages %}w1 {{ message['content'] }} w2 {% endfor %}"
    tokenizer, asked = zoo.word_tokenizer(template), []

    temperatures = []

    def generate(ids, *, attention_mask, max_new_tokens, stopping_criteria=(), **rest):
        asked.append((ids.shape, attention_mask.shape, max_new_tokens))
        temperatures.append(rest["temperature"])
        return model.generate(
            ids,
            attention_mask=attention_mask,
            max_new_tokens=max_new_tokens,
            stopping_criteria=list(stopping_criteria) or None,
            **rest,
        )

    writer = TextWriter(model, tokenizer, 64, generate, temperature=1.2)
    texts = [text for _ in range(3) for text in writer.round()]
    assert len(set(asked)) == 1
    assert temperatures == 3 * [1.0, 1.2, 1.2], "messages, chats, free text"
    assert all(len(text) <= 64 for text in texts)
    chat = tokenizer("w1")["input_ids"][0]
    assert all(text[0] == chat for text in texts[:8:2])
    assert any(text[0] != chat for text in texts[1:8:2])


def test_a_message_ends_after_so_many_tokens():
    torch.manual_seed(0)
    model = zoo.text_model("llama")
    for text in continued(model, BEGINS, 24, goes_on=True, width=6, stop_after=5):
        assert len(text) <= 3 + 5
