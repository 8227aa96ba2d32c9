"""Caches: passed in, changed in place, returned; decoding needs one program, not one a token."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tf
import zoo
from zoo import CACHE

from sparseflow.integrations.transformers.argument_names import returned_cache
from sparseflow.runtime.calling.structure import flatten

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}


def llama():
    return tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)).eval()


def mistral():
    return tf.MistralForCausalLM(tf.MistralConfig(sliding_window=32, **SMALL)).eval()


def filled(model, batch, length):
    cache = tf.DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.randint(3, 96, (batch, length)), **{CACHE: cache})
    return cache


def step(model, batch, length, new=1):
    return (), {
        "input_ids": torch.randint(3, 96, (batch, new)),
        CACHE: filled(model, batch, length),
    }


@pytest.mark.parametrize("make", [llama, mistral])
def test_decoding_with_a_cache_of_any_length_is_one_program(make, round_trip):
    model = make()
    round_trip(model, *(step(model, *size) for size in ((2, 5), (2, 6), (3, 9), *((n, 4) for n in zoo.ONE))))


def test_several_tokens_after_a_past(round_trip):
    model = llama()
    round_trip(model, step(model, 2, 5, new=3), step(model, 3, 7, new=4))


def test_the_cache_that_was_passed_is_the_one_that_grows_and_returns(build_program):
    model = llama()
    args, kwargs = step(model, 2, 5)
    built = build_program(model, *args, **copy.deepcopy(kwargs))
    cache = kwargs[CACHE]
    layers = list(cache.layers)
    output = built.run(**kwargs)
    assert returned_cache(output) is cache
    assert [a is b for a, b in zip(cache.layers, layers, strict=True)] == [True, True]
    assert cache.get_seq_length() == 6


def test_an_empty_cache_is_filled_in_place(round_trip):
    model = llama()

    def call(batch, length):
        ids = torch.randint(3, 96, (batch, length))
        return (), {"input_ids": ids, CACHE: tf.DynamicCache(config=model.config)}

    built = round_trip(model, call(2, 5), call(3, 7))
    _, kwargs = call(2, 4)
    built.run(**kwargs)
    assert kwargs[CACHE].get_seq_length() == 4


def test_a_static_cache_is_written_in_place(round_trip):
    model = llama()

    def call(batch):
        cache = tf.StaticCache(config=model.config, max_cache_len=16)
        with torch.no_grad():
            model(torch.randint(3, 96, (batch, 5)), **{CACHE: cache})
        return (), {"input_ids": torch.randint(3, 96, (batch, 1)), CACHE: cache}

    built = round_trip(model, call(2))
    _, kwargs = call(2)
    keys = kwargs[CACHE].layers[0].keys
    before = keys.clone()
    built.run(**kwargs)
    assert kwargs[CACHE].layers[0].keys is keys
    assert not torch.equal(keys, before)


def test_a_sliding_window_counts_without_a_new_program(build_program):
    model = mistral()
    args, kwargs = step(model, 2, 5)
    built = build_program(model, *args, **copy.deepcopy(kwargs))
    eager = copy.deepcopy(kwargs[CACHE])
    cache = kwargs[CACHE]
    for token in range(4):
        ids = torch.full((2, 1), 7 + token)
        assert built.captured.accepts((), {"input_ids": ids, CACHE: cache}) is None
        built.run(input_ids=ids, **{CACHE: cache})
        with torch.no_grad():
            model(ids, **{CACHE: eager})
    found, expected = flatten(cache), flatten(eager)
    assert found.structure == expected.structure
    torch.testing.assert_close(found.leaves, expected.leaves)
