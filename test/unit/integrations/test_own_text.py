"""Text that a model writes itself: where texts end, and where they go on."""

from __future__ import annotations

import pytest
import torch
import zoo

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
