"""Steps and prompts of every family attend by our operators, and give what the model gives."""

from __future__ import annotations

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.compiler import run_phases
from sparseflow.integrations.transformers.argument_names import parameters
from sparseflow.integrations.transformers.static_caches import whole_cache
from sparseflow.runtime.attention.decode_attention import decode_attention
from sparseflow.runtime.attention.prompt_attention import prompt_attention

SDPA = torch.ops.aten.scaled_dot_product_attention.default
LENGTH = 32
FAMILIES = {"llama": 0, "qwen3": 0, "mistral": 8, "gemma3": 8, "phi3": 0, "gpt2": 0}
PROMPTS = ("llama", "qwen3", "gemma3", "phi3")


def call(model, ids, cache, first, padding=None):
    found = {"input_ids": ids, "use_cache": True, zoo.CACHE: cache}
    if "position_ids" in parameters(model):
        found["position_ids"] = (
            torch.arange(first, first + ids.shape[1]).expand(ids.shape[0], -1).contiguous()
        )
    return found if padding is None else {**found, "attention_mask": padding}


def calls_of(compiled):
    nodes = compiled.graph().graph.nodes
    return [n for n in nodes if n.target is decode_attention], [n for n in nodes if n.target is SDPA]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_over_a_static_cache(name, padded):
    torch.manual_seed(0)
    layers = zoo.fewest(name)
    model = zoo.text_model(name, layers)
    padding = torch.ones(2, LENGTH, dtype=torch.long) if padded else None
    if padding is not None:
        padding[0, :3] = 0
    with torch.inference_mode(False):
        caches = [whole_cache(model, LENGTH, 2) for _ in range(2)]
    prompt, steps = zoo.tokens(2, 9), [zoo.tokens(2, 1) for _ in range(4)]
    compiled = None
    with torch.no_grad():
        for cache in caches:
            model(**call(model, prompt, cache, 0, padding))
        for at, ids in enumerate(steps, start=9):
            if compiled is None:
                compiled = sf.compile(
                    model, skip=("*",), inner="eager", kwargs=call(model, ids, caches[0], at, padding)
                )
                decoding, others = calls_of(compiled)
                assert (len(decoding), others) == (layers, [])
                for node in decoding:
                    *_, keep, _, window = (*node.args, 0)[:7]
                    assert (keep is not None, window) == (padded, FAMILIES[name])
            found = compiled(**call(model, ids, caches[0], at, padding)).logits
            wanted = model(**call(model, ids, caches[1], at, padding)).logits
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_step_over_a_cache_that_grows_keeps_torch_s_attention_with_a_reason():
    torch.manual_seed(0)
    model = zoo.text_model("llama")
    with torch.no_grad():
        past = model(zoo.tokens(2, 9), use_cache=True).past_key_values
        inputs = {"input_ids": zoo.tokens(2, 1), zoo.CACHE: past, "use_cache": True}
        compiled = sf.compile(model, skip=("*",), inner="eager", kwargs=inputs)
        decoding, others = calls_of(compiled)
    assert (len(decoding), len(others)) == (0, 2)
    assert str(compiled.mlir("sparse_gemm")).count("nothing is known of its mask") == 2


@pytest.fixture
def for_flash_attention(monkeypatch):
    """Compile as for a GPU that FlashAttention runs on."""
    monkeypatch.setattr(run_phases, "why_not_flash_on", lambda _: None)


@pytest.mark.parametrize("name", PROMPTS)
def test_chunks_of_a_prompt_over_a_static_cache(name, for_flash_attention):
    torch.manual_seed(0)
    layers = zoo.fewest(name)
    model = zoo.text_model(name, layers).to(torch.bfloat16)
    with torch.inference_mode(False):
        caches = [whole_cache(model, LENGTH, 2) for _ in range(2)]
    chunks, compiled, first = [zoo.tokens(2, length) for length in (18, 9, 5)], None, 0
    with torch.no_grad():
        for ids in chunks:
            if compiled is None:
                inputs = call(model, ids, caches[0], first)
                compiled = sf.compile(model, skip=("*",), inner="eager", kwargs=inputs)
            found = compiled(**call(model, ids, caches[0], first)).logits
            wanted = model(**call(model, ids, caches[1], first)).logits
            torch.testing.assert_close(found, wanted, rtol=3e-2, atol=3e-2)
            first += ids.shape[1]
    prompts = [n for n in compiled.graph(program=0).graph.nodes if n.target is prompt_attention]
    assert [(*n.args, 0)[5] for n in prompts] == [FAMILIES[name]] * layers
    assert not any(n.target is SDPA for n in compiled.graph(program=0).graph.nodes)
    assert compiled.report.model["programs"] == 1


def test_a_prompt_with_padding_and_one_in_float32_keep_torch_s_attention_with_a_reason(for_flash_attention):
    torch.manual_seed(0)
    for dtype, padding, reason in (
        (torch.bfloat16, torch.ones(2, LENGTH, dtype=torch.long), "its mask "),
        (torch.float32, None, "with many queries in f32"),
    ):
        model = zoo.text_model("llama", 1).to(dtype)
        with torch.inference_mode(False), torch.no_grad():
            inputs = call(model, zoo.tokens(2, 18), whole_cache(model, LENGTH, 2), 0, padding)
            compiled = sf.compile(model, skip=("*",), inner="eager", kwargs=inputs)
        assert len(calls_of(compiled)[1]) == 1
        assert str(compiled.mlir("sparse_gemm")).count(reason) == 1


def test_a_prompt_on_a_cpu_keeps_torch_s_attention():
    torch.manual_seed(0)
    model = zoo.text_model("llama", 1).to(torch.bfloat16)
    with torch.inference_mode(False), torch.no_grad():
        inputs = call(model, zoo.tokens(2, 18), whole_cache(model, LENGTH, 2), 0)
        compiled = sf.compile(model, skip=("*",), inner="eager", kwargs=inputs)
    assert len(calls_of(compiled)[1]) == 1
