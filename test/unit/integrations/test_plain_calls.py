"""A plain call of `generate` is read as transformers reads it, and every other is left to it."""

from __future__ import annotations

import copy

import pytest
import torch
from unit.checkpoints.tiny import llama

from sparseflow.integrations.transformers.decoding import Sampled, replace_sampling
from sparseflow.integrations.transformers.plain_calls import read_plain
from sparseflow.integrations.transformers.saved import _plain_generation

IDS = torch.tensor([[5, 9, 4], [7, 8, 3]])
NEW = {"max_new_tokens": 4}
FIELDS = ("max_length", "draws", "pad", "top_k", "top_p", "temperature", "penalty", "chunk")
DRAWN = {"do_sample": True, **NEW}


@pytest.fixture(scope="module")
def model():
    model = llama(num_hidden_layers=1)
    model.generation_config.pad_token_id = 0
    return model


def as_transformers_reads(model, args, kwargs) -> Sampled | str:
    found = []

    def decode(sampled):
        found.append(sampled)
        return args[0] if args else kwargs["input_ids"], None

    routed = copy.copy(model)
    replace_sampling(routed, decode)
    routed.generate(*args, **kwargs)
    return found[0]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((IDS,), NEW),
        ((), {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "do_sample": False, **NEW}),
        ((IDS,), {"eos_token_id": None, **NEW}),
        ((IDS,), {"eos_token_id": [4, 11], **NEW}),
        ((IDS[:1],), {"eos_token_id": 6, "pad_token_id": 6, **NEW}),
        ((IDS,), DRAWN),
        ((IDS,), {"temperature": 0.5, "top_k": 7, "top_p": 0.8, **DRAWN}),
        ((IDS,), {"temperature": 1, "top_k": 0, "top_p": 1, **DRAWN}),
    ],
)
def test_it_is_read_alike(model, args, kwargs):
    expected = as_transformers_reads(model, args, kwargs)
    found = read_plain(args, kwargs, _plain_generation(model)["defaults"])
    assert isinstance(expected, Sampled)
    assert isinstance(found, Sampled), found
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.eos, expected.eos)
    assert found.mask is expected.mask is None
    for name in FIELDS:
        one, other = getattr(found, name), getattr(expected, name)
        neutral = {"temperature": 1.0, "top_p": 1.0}.get(name)
        assert one == other or {one, other} <= {neutral, None}, name


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((IDS,), {}, "max_new_tokens"),
        ((IDS,), {"max_new_tokens": 0}, "max_new_tokens"),
        ((IDS,), {"num_beams": 2, **NEW}, "num_beams"),
        ((IDS,), {"input_ids": IDS, **NEW}, "prompt"),
        ((IDS.float(),), NEW, "prompt"),
        ((IDS[:, :0],), NEW, "prompt"),
        ((), NEW, "prompt"),
        ((IDS,), {"attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]), **NEW}, "padded"),
        ((torch.tensor([[0, 5, 9]]),), NEW, "padding"),
        ((IDS,), {"eos_token_id": 6, "pad_token_id": None, **NEW}, "batch"),
        ((IDS,), {"eos_token_id": torch.tensor(2), **NEW}, "end"),
        ((IDS,), {"temperature": 0.5, **NEW}, "greedy"),
        ((IDS,), {"temperature": 0.0, **DRAWN}, "range"),
        ((IDS,), {"top_k": -1, **DRAWN}, "range"),
        ((IDS,), {"top_p": 1.5, **DRAWN}, "range"),
        ((IDS,), {"do_sample": 1, **NEW}, "do_sample"),
    ],
)
def test_it_is_left_to_transformers(model, args, kwargs, reason):
    found = read_plain(args, kwargs, _plain_generation(model)["defaults"])
    assert isinstance(found, str)
    assert reason in found
