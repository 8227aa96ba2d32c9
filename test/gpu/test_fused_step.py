"""The decoding step on a GPU: few kernels between products, the likeliest token, a head in 8 bits."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import transformers as tf
import zoo

import sparseflow as sf
from sparseflow.execution.decoding.sampling import GROUP, likeliest
from sparseflow.runtime import formats
from sparseflow.runtime.packed import pack

LAYERS = 3


def compiled_of(**options: object) -> sf.CompiledModel:
    torch.manual_seed(0)
    sizes = {**zoo.GROUPED, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": LAYERS}
    config = tf.LlamaConfig(**{**sizes, "vocab_size": 4096, "max_position_embeddings": 512})
    model = tf.LlamaForCausalLM(config).cuda().bfloat16().eval()
    return sf.compile(model, prune="magnitude", policy="sparse", **options)


def kernels_of(compiled: sf.CompiledModel) -> Counter[str]:
    """The kernels of one step, by name."""
    step = compiled.generator.again(8)
    assert step._graph is not None, step.refusal
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return Counter(event.name for event in profile.events())


def test_a_layer_has_few_kernels_between_attention_and_products() -> None:
    compiled = compiled_of()
    options = {"max_new_tokens": 24, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
    found = compiled.generate(zoo.tokens(1, 8).cuda(), **options)
    reference = zoo.pruned_as(compiled.model_behind, compiled.report)
    agreed = (found == reference.generate(found[:, :8], **options)).float().mean()
    # Random weights give logits that lie close together, and bfloat16 rounds them.
    assert agreed >= 0.5
    triton = {name: n for name, n in kernels_of(compiled).items() if name.startswith("triton")}
    # Two norms, one kernel that turns q and k and writes the cache, and perhaps attention's own for q.
    assert sum(triton.values()) <= 4 * LAYERS + 8, triton


@pytest.mark.parametrize("size", [GROUP, GROUP + 1, 128256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_likeliest_is_the_first(size: int, dtype: torch.dtype) -> None:
    scores = torch.randint(-3, 3, (5, size), device="cuda").to(dtype)
    scores[1] = -torch.inf
    scores[2, size // 2 :] = torch.nan
    expected = [row.float().cpu().numpy().argmax() for row in scores]
    assert likeliest(scores).tolist() == expected
    assert torch.compile(likeliest)(scores).tolist() == expected


@pytest.mark.parametrize("stored", formats.names("dense"))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 8, 9, 40])
@torch.no_grad()
def test_a_weight_in_8_bits(stored: str, dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(rows)
    weight = pack((torch.randn(1000, 520, device="cuda") / 16).to(dtype), stored)
    x, bias = (torch.randn(*size, device="cuda").to(dtype) for size in ((rows, 520), (1000,)))

    def layer(x: torch.Tensor) -> torch.Tensor:
        return weight.format.op(x, *weight.tensors, bias, None, 520, "none", [], None)

    expected = x.double() @ weight.format.unpack(weight.tensors, 520).double().T + bias.double()
    for run in (layer, torch.compile(layer, dynamic=False)):
        error = (run(x) - expected).norm() / expected.norm()
        assert error < torch.finfo(dtype).eps


@pytest.mark.parametrize("stored", ["2:4", *formats.names("dense")])
def test_generate_decodes_with_a_packed_head(stored: str) -> None:
    compiled = compiled_of(lm_head=stored)
    options = {"max_new_tokens": 16, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
    found = compiled.generate(zoo.tokens(2, 8).cuda(), **options)
    logits = compiled(found[:, :-1]).logits[:, 7:].float()
    chosen = logits.gather(-1, found[:, 8:, None]).squeeze(-1)
    # What the step chose is the likeliest of the whole program too, or lies within rounding of it.
    assert (logits.amax(-1) - chosen).max() <= 0.05 * logits.abs().max()
