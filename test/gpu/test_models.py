"""Whole transformers models on a GPU: inductor, CUDA graphs over static caches, generate, warmup."""

import copy

import pytest
import torch
import transformers as tf
import zoo
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import sparseflow as sf
from sparseflow.runtime import gpu

CONFIG = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}
OPTIONS = {"max_new_tokens": 24, "pad_token_id": 0, "eos_token_id": None}
BOUND = 3e-2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = tf.LlamaConfig(dtype=torch.bfloat16, **CONFIG)
    with torch.device("cuda"):
        made = tf.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    sf.prune(made, progress=False)
    return made


def tokens(batch, length):
    return torch.randint(3, 512, (batch, length), device="cuda")


def cache_of(model, batch, length=128):
    cache = tf.StaticCache(config=model.config, max_cache_len=length)
    cache.early_initialization(batch, 2, 64, dtype=model.dtype, device=model.device)
    return cache


def error(found, expected):
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


def costs(compiled):
    return compiled.report.model["compilations"]


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_decoding_is_recorded_and_every_step_is_right(model, inner):
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner=inner, mode="reduce-overhead")
    kept = []
    for batch in (1, 3):
        ours, theirs = cache_of(model, batch), cache_of(model, batch)
        for step in range(8):
            ids = tokens(batch, 5 if step == 0 else 1)
            with torch.no_grad():
                found = compiled(input_ids=ids, **{zoo.CACHE: ours}).logits
                expected = model(input_ids=ids, **{zoo.CACHE: theirs}).logits
            kept.append((found, expected))
        assert error(ours.layers[1].keys, theirs.layers[1].keys) < BOUND
        assert ours.layers[0].cumulative_length.item() == 12
    assert all(error(*pair) < BOUND for pair in kept), "results stay as they were given"
    graphs = costs(compiled)["cuda_graphs"]
    assert (graphs["recordings"], graphs["replays"], graphs["without"]) == (2, 10, [])


def test_large_results_are_lent_and_stay_as_they_were_given(model):
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner="eager", mode="reduce-overhead")
    kept, places = [], []
    for step in range(14):
        ids = tokens(64, 128)
        with torch.no_grad():
            found = compiled(input_ids=ids, use_cache=False).logits  # 8 MiB
            expected = model(input_ids=ids, use_cache=False).logits
            compiled(input_ids=ids[:2], use_cache=False)  # a graph of the program's common memory
        kept = [*kept[-3:], (found, expected)] if step >= 7 else [(found, expected)]
        places.append(found.data_ptr())
        assert all(error(*pair) < BOUND for pair in kept)
    assert len(set(places[2:7])) == 2, "two recordings take turns"
    assert costs(compiled)["cuda_graphs"]["recordings"] == 4


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_nearly_every_generated_token_is_the_eager_models(model, cache):
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner="eager", mode="reduce-overhead")
    mask = torch.ones(4, 9, dtype=torch.long, device="cuda")
    mask[0, :4] = 0
    ids = tokens(4, 9)
    found = compiled.generate(
        ids, attention_mask=mask, do_sample=False, cache_implementation=cache, **OPTIONS
    )
    whole = torch.cat([mask, torch.ones_like(found[:, 9:])], dim=1)
    with torch.no_grad():
        logits = model(found, attention_mask=whole).logits
    assert (logits[:, 8:-1].argmax(-1) == found[:, 9:]).float().mean() >= 0.95


def test_warmup_leaves_nothing_to_build(model):
    gpu.reset()
    compiled = sf.compile(model, prune="magnitude", policy="sparse", mode="reduce-overhead")
    options = {**OPTIONS, "do_sample": False, "cache_implementation": "static"}
    compiled.warmup(batch=2, seq=16, generate=options)
    before, built = costs(compiled), gpu.stats().built
    compiled.generate(tokens(2, 16), **options)
    after = costs(compiled)
    assert after["seconds"] == before["seconds"]
    assert after["inductor"] == before["inductor"]
    assert after["cuda_graphs"]["recordings"] == before["cuda_graphs"]["recordings"] == 1
    assert after["cuda_graphs"]["replays"] > before["cuda_graphs"]["replays"]
    assert gpu.stats().built == built


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_warmup_measures_the_dense_model_beside(model, mode):
    compiled = sf.compile(model, prune="magnitude", policy="sparse", mode=mode)
    compiled.warmup(batch=2, seq=16, generate={**OPTIONS, "cache_implementation": "static"})
    compiled.warmup(batch=[1, 2], seq=16, decode=False)
    assert compiled.report.model["not_measured"] == ""
    measured = compiled.report.model["measured"]
    assert [found["call"] for found in measured] == [
        "generate 4 tokens, batch 2 × seq 16",
        "batch 1 × seq 16",
        "batch 2 × seq 16",
    ]
    assert all(found["dense_ms"] > 0 and found["compiled_ms"] > 0 for found in measured)


def kernels(run):
    """How many kernels one call launches, once it is compiled."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    on_device = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return len([event for event in on_device if "Memcpy" not in event.name and "Memset" not in event.name])


def test_a_decoding_step_launches_no_more_kernels_than_dense_inductor(model):
    dense, compiled = (
        torch.compile(copy.deepcopy(model)),
        sf.compile(model, prune="magnitude", policy="sparse"),
    )
    counts = []
    for run in (compiled, dense):
        cache, ids = cache_of(model, 4), tokens(4, 1)
        with torch.no_grad():
            counts.append(
                kernels(lambda run=run, cache=cache, ids=ids: run(input_ids=ids, **{zoo.CACHE: cache}))
            )
    assert 0 < counts[0] <= counts[1]


def test_a_prefill_without_padding_launches_no_more_kernels_than_dense_inductor(model):
    dense, compiled = (
        torch.compile(copy.deepcopy(model)),
        sf.compile(model, prune="magnitude", policy="sparse"),
    )
    inputs = {"input_ids": tokens(1, 256), "use_cache": False}
    with torch.no_grad():
        found, expected = compiled(**inputs).logits, model(**inputs).logits
        counts = [kernels(lambda run=run: run(**inputs)) for run in (compiled, dense)]
    assert error(found, expected) < BOUND
    assert 0 < counts[0] <= counts[1]
    # Told that it is causal, attention reads no mask and no keys copied to every head of a group.
    nodes = compiled.graph().graph.nodes
    attention = [n for n in nodes if n.target is torch.ops.aten.scaled_dot_product_attention.default]
    assert {(n.args[3], n.args[5], n.kwargs["enable_gqa"]) for n in attention} == {(None, True, True)}


def test_a_model_that_cannot_be_recorded_runs_and_says_why():
    class Looks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(256, 256)
            self.offset = torch.ones(3)

        def forward(self, x):
            return self.layer(x) + self.offset.to(x.device).sum().to(x.dtype)

    model = Looks().to("cuda", torch.bfloat16).eval()
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner="eager", mode="reduce-overhead")
    x = torch.randn(8, 256, device="cuda", dtype=torch.bfloat16)
    outputs = [compiled(x) for _ in range(4)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert "not on cuda" in costs(compiled)["cuda_graphs"]["without"][0]
