"""Attention of many queries by torch's FlashAttention over a static cache, against its definition in fp64."""

import pytest
import torch
import zoo
from attention_reference import expected

import sparseflow as sf
from sparseflow.integrations.transformers.static_caches import whole_cache
from sparseflow.runtime.attention import prompt_attention as module
from sparseflow.runtime.attention.prompt_attention import prompt_attention, why_not_flash, why_not_flash_on

TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3}
RUNS = torch.cuda.is_available() and why_not_flash_on(torch.device("cuda")) is None
needs_flash = pytest.mark.skipif(not RUNS, reason="FlashAttention is for sm_80 and later")


def case(batch, kv_heads, group, queries, length, width, dtype, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    shapes = [(batch, queries, kv_heads * group, width), *[(batch, kv_heads, length, width)] * 2]
    q, k, v = (torch.randn(shape, device="cuda", generator=generator).to(dtype) for shape in shapes)
    return q.transpose(1, 2), k, v


def close(found, wanted, dtype):
    torch.testing.assert_close(found.double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.fixture
def calls(monkeypatch):
    """Count the calls of FlashAttention."""
    made, forward = [], module._flash_forward

    def counted(*args, **kwargs):
        made.append(args[0].shape)
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "_flash_forward", counted)
    return made


@needs_flash
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [8, 40, 64, 96, 128, 256])
@pytest.mark.parametrize("group", [1, 4, 7])
def test_first_and_later_chunks(dtype, width, group, calls):
    sizes = [
        (1, 17, 17, 0),
        (2, 33, 65, 0),
        (3, 129, 700, 0),
        (2, 100, 300, 77),
        (1, 257, 1030, 773),
        (5, 19, 41, 22),
    ]
    for seed, (batch, queries, length, first) in enumerate(sizes):
        q, k, v = case(batch, 2, group, queries, length, width, dtype, seed)
        k[:, :, first + queries :], v[:, :, first + queries :] = (
            torch.nan,
            torch.nan,
        )  # must not reach a result
        position = torch.tensor(first, device="cuda")
        for window in (0, 1, 37, 4096):
            found = prompt_attention(q, k, v, position, width**-0.5, window)
            assert torch.equal(found, prompt_attention(q, k, v, position, width**-0.5, window))
            assert found.transpose(1, 2).is_contiguous()
            close(found, expected(q, k, v, position, None, width**-0.5, window), dtype)
    assert len(calls) == len(sizes) * 4 * 2


@needs_flash
def test_layouts_of_caches(calls):
    q, k, v = case(3, 2, 4, 60, 333, 64, torch.bfloat16)
    position = torch.tensor([201], device="cuda")
    wanted = expected(q, k, v, position, None, 0.1)
    layouts = {
        "turned": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        "wide": lambda t: torch.nn.functional.pad(t, (8, 8))[..., 8:-8],
        "longer": lambda t: torch.nn.functional.pad(t, (0, 0, 0, 9))[:, :, :-9],
        "not aligned": lambda t: torch.nn.functional.pad(t, (3, 0))[..., 3:],
    }
    for keys in layouts.values():
        for values in layouts.values():
            close(prompt_attention(q, keys(k), values(v), position, 0.1), wanted, torch.bfloat16)
    close(prompt_attention(q.contiguous(), k, v, position, 0.1), wanted, torch.bfloat16)
    one = prompt_attention(q, k[:1], v[:1], position, 0.1)
    close(one, expected(q, k[:1], v[:1], position, None, 0.1), torch.bfloat16)
    assert len(calls) == len(layouts) ** 2 + 2


@needs_flash
@pytest.mark.parametrize("window", [0, 100])
def test_a_cuda_graph_follows_the_position(window, calls):
    q, k, v = case(2, 8, 4, 64, 1500, 128, torch.bfloat16)
    position = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(2):
        prompt_attention(q, k, v, position, 0.09, window)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = prompt_attention(q, k, v, position, 0.09, window)
    for at in (0, 1, 63, 64, 777, 1436, 3):
        position.fill_(at)
        q.normal_()
        graph.replay()
        close(result, expected(q, k, v, position, None, 0.09, window), torch.bfloat16)
    assert len(calls) == 3


@needs_flash
def test_the_host_waits_for_nothing():
    q, k, v = case(2, 2, 4, 60, 333, 64, torch.bfloat16)
    position = torch.tensor(201, device="cuda")
    prompt_attention(q, k, v, position, 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        prompt_attention(q, k, v, position, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_flash_attention_does_not_take_runs_otherwise(calls):
    cases = {
        "float32": case(1, 2, 2, 40, 64, 64, torch.float32),
        "not 20": case(1, 2, 2, 40, 64, 20, torch.bfloat16),
    }
    for reason, (q, k, v) in cases.items():
        assert reason in (why_not_flash(q) or "")
        position = torch.tensor(20, device="cuda")
        found = prompt_attention(q, k, v, position, 0.2, 9)
        close(found, expected(q, k, v, position, None, 0.2, 9), torch.bfloat16)
    for queries in (1, 3):  # few ones have a kernel of their own
        q, k, v = case(2, 2, 4, queries, 64, 64, torch.bfloat16)
        close(
            prompt_attention(q, k, v, position, 0.2), expected(q, k, v, position, None, 0.2), torch.bfloat16
        )
    assert not any(shape[0] == 2 for shape in calls)  # one query a sequence


@needs_flash
@pytest.mark.parametrize("inner", ["eager", "inductor"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_chunks_of_a_prompt_in_a_model(name, inner, calls):
    torch.manual_seed(0)
    model = zoo.text_model(name, 1 if name == "llama" else zoo.fewest(name)).to("cuda", torch.bfloat16)
    with torch.inference_mode(False):
        caches = [whole_cache(model, 64, 2) for _ in range(2)]
    compiled, first = None, 0
    with torch.no_grad():
        for length in (18, 25, 7):
            ids = zoo.tokens(2, length).cuda()
            positions = torch.arange(first, first + length, device="cuda").expand(2, -1).contiguous()
            inputs = {"input_ids": ids, "use_cache": True, "position_ids": positions}
            ours, theirs = ({**inputs, zoo.CACHE: cache} for cache in caches)
            if compiled is None:
                compiled = sf.compile(model, skip=("*",), inner=inner, kwargs=ours)
            torch.testing.assert_close(compiled(**ours).logits, model(**theirs).logits, rtol=5e-2, atol=5e-2)
            first += length
    targets = [node.target for node in compiled.graph(program=0).graph.nodes]
    assert prompt_attention in targets
    assert torch.ops.aten.scaled_dot_product_attention.default not in targets
    assert calls


@needs_flash
def test_greedy_tokens_of_prompts_of_several_lengths():
    torch.manual_seed(0)
    model = zoo.text_model("llama").to("cuda", torch.bfloat16)
    compiled = sf.compile(model, skip=("*",), inner="eager")
    options = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    for length in (20, 45, 31):
        ids = zoo.tokens(3, length).cuda()
        found = compiled.generate(ids, attention_mask=torch.ones_like(ids), **options)
        with torch.no_grad():
            logits = model(found).logits[:, length - 1 : -1].float()
        chosen = logits.gather(-1, found[:, length:, None])[..., 0]
        # Random weights give logits that lie close together: each token is one of the best ones.
        assert bool((chosen >= logits.amax(-1) - 1e-2).all())
    targets = [node.target for node in compiled.graph(program=0).graph.nodes]
    assert prompt_attention in targets
