"""generate's own loop: the tokens of transformers' loop, and what only that can do."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers as tf
import zoo
from torch import nn
from transformers import LogitsProcessorList

import sparseflow as sf
from sparseflow.errors import CaptureError
from sparseflow.execution import streaming
from sparseflow.execution.decoding import loop
from sparseflow.execution.streaming import one_row_linear
from sparseflow.integrations.transformers.argument_names import returned_cache

OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
ENDS = list(range(0, 96, 4))
DRAWS = [
    {"do_sample": True, "top_k": 0},
    {"do_sample": True, "top_k": 7, "top_p": 0.8, "temperature": 0.7},
    {"do_sample": True, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.3},
]


@functools.cache
def pair(name: str) -> tuple[nn.Module, sf.CompiledModel]:
    """The pruned eager model and the compiled one, which has the programs of prompts without padding."""
    torch.manual_seed(0)
    model = zoo.text_model(name, zoo.fewest(name))
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner="eager")
    compiled.generate(**prompt(2, 5, padded=False), **OPTIONS)
    return zoo.pruned_as(model, compiled.report), compiled


def prompt(batch: int, length: int, *, padded: bool) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch, length, dtype=torch.long)
    if padded:
        mask[0, : length // 2] = 0
    return {"input_ids": zoo.tokens(batch, length), "attention_mask": mask}


def both(name: str, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of the compiled model and of the eager one, drawn from one seed."""
    reference, compiled = pair(name)
    found = [
        torch.manual_seed(7) and model.generate(**{**OPTIONS, **options}) for model in (compiled, reference)
    ]
    return found[0], found[1]


def which(name: str) -> str:
    return pair(name)[1].report.model["generate"]["loop"]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "gemma3", "phi3", "gpt2"])
def test_prompts_of_any_length_get_the_tokens_of_transformers(name: str, padded: bool) -> None:
    torch.manual_seed(len(name))
    for length in (4, 9, 21, 13):  # windows of 8 tokens among them
        found, expected = both(name, **prompt(2, length, padded=padded))
        assert torch.equal(found, expected)
        assert which(name) == "sparseflow"


@pytest.mark.parametrize("options", DRAWS, ids=["all", "top-k and top-p", "top-p and penalty"])
def test_draws_follow_the_generator_as_those_of_transformers(options: dict[str, Any]) -> None:
    found, expected = both("llama", **prompt(3, 9, padded=True), **options)
    assert which("llama") == "sparseflow"
    assert torch.equal(found, expected)


def test_sequences_that_end_are_padded_and_the_longest_decides() -> None:
    lengths = set()
    for _ in range(6):
        found, expected = both("llama", **prompt(3, 5, padded=False), eos_token_id=ENDS, max_new_tokens=30)
        assert torch.equal(found, expected)
        lengths.add(found.shape[1])
    assert min(lengths) < 35


@pytest.mark.parametrize(
    "options",
    [
        {"min_new_tokens": 9},
        {"min_length": 11},
        {"min_length": 14, "repetition_penalty": 1.3},
        {"min_new_tokens": 6, "do_sample": True, "top_k": 5, "temperature": 0.8},
    ],
    ids=["new tokens", "with the prompt", "and a penalty", "drawn"],
)
def test_no_sequence_ends_before_its_least_length(options: dict[str, Any]) -> None:
    call, ends = prompt(3, 5, padded=True), [*ENDS, 10**6]  # one of them is no token of the vocabulary
    found, expected = both("llama", **call, **options, eos_token_id=ends, max_new_tokens=30)
    assert which("llama") == "sparseflow"
    assert torch.equal(found, expected)
    length = max(options.get("min_length", 0), 5 + options.get("min_new_tokens", 0))
    assert not torch.isin(found[:, 5:length], torch.tensor(ends)).any()
    assert found.shape[1] > length
    short, _ = both("llama", **call, eos_token_id=ends, max_new_tokens=30)
    assert torch.isin(short[:, 5:length], torch.tensor(ends)).any()


def test_the_repetition_penalty_knows_the_prompt_but_not_its_padding() -> None:
    found, expected = both("qwen3", **prompt(3, 9, padded=True), repetition_penalty=1.7)
    plain, _ = both("qwen3", **prompt(3, 9, padded=True))
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)


def test_a_prompt_can_be_run_in_chunks() -> None:
    call = prompt(2, 11, padded=True)
    found, expected = both("llama", **call)[0], both("llama", **call, prefill_chunk_size=4)[0]
    assert which("llama") == "sparseflow"
    assert torch.equal(found, expected)


class Kept(tf.generation.streamers.BaseStreamer):
    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.reshape(-1))

    def end(self) -> None:
        self.ended += 1


def test_a_streamer_gets_the_prompt_each_token_and_the_end() -> None:
    _, compiled = pair("llama")
    kept = Kept()
    tokens = compiled.generate(**prompt(1, 6, padded=False), streamer=kept, **OPTIONS)
    assert which("llama") == "sparseflow"
    assert torch.equal(torch.cat(kept.values), tokens[0])
    assert (len(kept.values), kept.ended) == (13, 1)


def test_criteria_of_the_caller_see_every_token() -> None:
    lengths = []

    def third(tokens: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        lengths.append(tokens.shape[1])
        return torch.full((tokens.shape[0],), tokens.shape[1] >= 8)

    call = prompt(2, 5, padded=False)
    found = pair("llama")[1].generate(**call, stopping_criteria=[third], **OPTIONS)
    assert lengths == [6, 7, 8]
    assert torch.equal(found, both("llama", **call)[0][:, :8])


def test_an_uncompiled_step_streams_its_dense_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rows.append(x.numel() // x.shape[-1])
        return one_row_linear(x, weight, bias)

    monkeypatch.setattr(streaming, "one_row_linear", counted)
    found, expected = both("llama", **prompt(1, 6, padded=False), repetition_penalty=1.1)
    assert torch.equal(found, expected)
    assert rows == [1] * 11  # the head in each step; all other layers are 2:4


def test_one_new_token_needs_no_step() -> None:
    found, expected = both("gpt2", **prompt(2, 5, padded=False), max_new_tokens=1)
    assert torch.equal(found, expected)


REFUSED = {
    "beams": ({"num_beams": 2}, None),
    "a dynamic cache": ({"cache_implementation": "dynamic"}, "cache_implementation='dynamic' was asked for"),
    "no cache": ({"use_cache": False}, "use_cache=False was asked for"),
    "scores": (
        {"return_dict_in_generate": True, "output_scores": True},
        "output_scores=True was asked for",
    ),
    "n-grams": ({"no_repeat_ngram_size": 2}, "the logits processor NoRepeatNGramLogitsProcessor runs"),
    "min-p": ({"do_sample": True, "min_p": 0.1}, "the logits processor MinPLogitsWarper runs"),
    "a least length of other ends": (
        {
            "logits_processor": LogitsProcessorList([tf.MinLengthLogitsProcessor(9, [1, 2])]),
            "eos_token_id": 3,
        },
        "other tokens are held back for a least length than those that end a sequence",
    ),
    "a processor of the caller": (
        {"logits_processor": LogitsProcessorList([lambda ids, scores: scores.flip(-1)])},
        "the logits processor function runs",
    ),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_only_transformers_can_do_it_does_and_the_report_says_so(
    options: dict[str, Any], reason: str | None
) -> None:
    call = prompt(2, 6, padded=False)
    both("llama", **call)
    found, expected = both("llama", **call, **options)
    if "return_dict_in_generate" in options:
        found, expected = found.sequences, expected.sequences
    assert torch.equal(found, expected)
    # Beam search isn't sampling: nobody was asked.
    assert which("llama") == ("sparseflow" if reason is None else f"transformers: {reason}")


def test_a_result_with_fields_has_the_cache_which_is_the_callers_from_then_on() -> None:
    reference, compiled = pair("llama")
    call = {**prompt(2, 6, padded=False), **OPTIONS, "return_dict_in_generate": True}
    found, expected = (model.generate(**call) for model in (compiled, reference))
    assert which("llama") == "sparseflow"
    assert type(found) is type(expected)
    assert torch.equal(found.sequences, expected.sequences)
    cache = returned_cache(found)
    assert cache.layers[0].batch_size == 2
    assert cache.get_seq_length() == 17
    keys = cache.layers[0].keys.clone()
    assert returned_cache(compiled.generate(**call)) is not cache
    assert torch.equal(cache.layers[0].keys, keys)


def test_one_program_serves_all_batches_but_of_one() -> None:
    _, compiled = pair("phi3")
    both("phi3", **prompt(2, 6, padded=False))
    before = compiled.report.model["programs"]
    found, expected = both("phi3", **prompt(5, 11, padded=False))
    assert torch.equal(found, expected)
    assert compiled.report.model["programs"] == before


def test_a_cache_of_the_caller_goes_to_transformers() -> None:
    reference, compiled = pair("llama")
    call = prompt(2, 6, padded=False)
    found, expected = (
        model.generate(**call, **{str(zoo.CACHE): tf.DynamicCache()}, **OPTIONS)
        for model in (compiled, reference)
    )
    assert torch.equal(found, expected)
    assert which("llama") == "transformers: the call brings a cache of its own"


def test_a_model_whose_static_cache_cannot_be_captured_goes_to_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    compiled = sf.compile(zoo.text_model("qwen3", 1), policy="sparse", inner="eager")

    def refused(*_: object, **__: object) -> None:
        raise CaptureError("qwen3", "no static cache today", "none")

    monkeypatch.setattr(compiled._generator._decoder, "_lower", refused)
    call = prompt(2, 6, padded=False)
    torch.manual_seed(3)
    found = compiled.generate(**call, **{**OPTIONS, "do_sample": True})
    torch.manual_seed(3)
    assert torch.equal(found, compiled.model_behind.generate(**call, **{**OPTIONS, "do_sample": True}))
    assert "no static cache today" in compiled.report.model["generate"]["loop"]


def test_weights_that_change_are_seen() -> None:
    torch.manual_seed(0)
    model = zoo.text_model("llama", 1)
    compiled = sf.compile(model, policy="sparse", inner="eager")
    call = {**prompt(2, 6, padded=False), **OPTIONS}
    before = compiled.generate(**call)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    after = compiled.generate(**call)
    assert torch.equal(after, model.generate(**call))
    assert not torch.equal(after, before)


@pytest.fixture
def pays_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PAYS_AFTER", 1)


@functools.cache
def stepping() -> tuple[nn.Module, sf.CompiledModel]:
    torch.manual_seed(0)
    model = zoo.text_model("gemma3", 1)
    return model, sf.compile(model, prune="magnitude", policy="sparse")


@pytest.mark.parametrize("options", [{}, DRAWS[2]], ids=["greedy", "drawn"])
def test_a_compiled_step_gives_the_same_tokens(pays_at_once: None, options: dict[str, Any]) -> None:
    model, compiled = stepping()
    for _ in range(2):
        call = {**prompt(1, 9, padded=False), **OPTIONS, **options}
        torch.manual_seed(7)
        found = compiled.generate(**call)
        torch.manual_seed(7)
        assert torch.equal(found, zoo.pruned_as(model, compiled.report).generate(**call))
        ran = compiled.report.model["generate"]
        assert (ran["step"], ran["loop"]) == ("inductor", "sparseflow")


def test_a_step_that_inductor_refuses_runs_by_torch_fx(
    pays_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = zoo.text_model("llama", 1)
    compiled = sf.compile(model, policy="sparse")
    tried = []

    def refused(*_: object, **__: object) -> tuple[None, str]:
        tried.append(1)
        return None, "inductor failed: no compiler"

    monkeypatch.setattr(loop, "compile_step", refused)
    for _ in range(2):
        call = {**prompt(1, 9, padded=False), **OPTIONS}
        assert torch.equal(compiled.generate(**call), model.generate(**call))
    assert compiled.report.model["generate"]["step"] == "torch.fx: inductor failed: no compiler"
    assert tried == [1]
