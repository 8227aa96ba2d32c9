"""Transformers models: one capture serves other batch sizes and lengths and equals eager."""

from __future__ import annotations

import pytest
import torch
import zoo


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_model_equals_eager_for_other_batches_and_lengths(name, round_trip):
    model, calls = zoo.model_and_calls(name, zoo.fewest(name))
    round_trip(model, *calls)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_padding_is_masked_as_in_eager(name, round_trip):
    def call(batch, length):
        mask = (torch.arange(length) < torch.randint(2, length, (batch, 1))).long()
        return (), {"input_ids": zoo.tokens(batch, length), "attention_mask": mask}

    round_trip(zoo.text_model(name), call(2, 5), call(3, 9), *(call(n, 7) for n in zoo.ONE))
