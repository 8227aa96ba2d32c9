"""transformers models through sf.compile, compared with the eager model whose weights are pruned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import zoo
from torch.utils import _pytree as pytree

import sparseflow as sf
from sparseflow.integrations.transformers.argument_names import returned_cache
from sparseflow.runtime.calling.structure import COUNTERS


def assert_same(found: object, expected: object) -> None:
    assert type(found) is type(expected)
    pairs = zip(*(pytree.tree_leaves(dict(out)) for out in (found, expected)), strict=True)
    for one, other in pairs:
        if isinstance(one, torch.Tensor):
            error = torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other)
            assert error <= (1e-5 if one.dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_equals_the_pruned_eager_model_from_one_capture(name: str) -> None:
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls(name)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    compiled.capture(*calls[0][0], **calls[0][1])
    reference = zoo.pruned_as(model, compiled.report)
    for args, kwargs in calls:
        with torch.no_grad():
            assert_same(compiled(*args, **kwargs), reference(*args, **kwargs))
    assert compiled.report.model["programs"] == 1
    assert any(layer.decision == "sparse" for layer in compiled.report.layers)


@pytest.fixture
def no_counters_known() -> Iterator[None]:
    """As in a new process, which learns what counts in caches from the first call that has some."""
    known = set(COUNTERS)
    COUNTERS.clear()
    yield
    COUNTERS.update(known)


@pytest.mark.parametrize("name", ["mistral", "llama"])
@pytest.mark.usefixtures("no_counters_known")
def test_the_first_call_with_a_returned_cache_decodes(name: str) -> None:
    torch.manual_seed(0)
    model, _ = zoo.model_and_calls(name, zoo.fewest(name))
    compiled = sf.compile(model)
    ids, step = zoo.tokens(2, 7), zoo.tokens(2, 1)
    with torch.no_grad():
        caches = [returned_cache(side(ids)) for side in (compiled, model)]
        for _ in range(3):  # over the first window's end, which is 8
            found, expected = (
                side(step, **{zoo.CACHE: cache})
                for side, cache in zip((compiled, model), caches, strict=True)
            )
            assert_same(found, expected)
    assert compiled.report.model["programs"] <= 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_its_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls("llama")
    model.to(dtype)
    compiled = sf.compile(model, prune="magnitude", policy="sparse", kwargs=calls[0][1])
    reference = zoo.pruned_as(model, compiled.report)
    with torch.no_grad():
        assert_same(compiled(**calls[0][1]), reference(**calls[0][1]))


def test_weights_already_24_are_found_in_transposed_layers_too() -> None:
    model, calls = zoo.model_and_calls("gpt2")
    weight = model.transformer.h[0].mlp.c_fc.weight
    with torch.no_grad():
        weight.copy_(sf.prune_24(weight.t()).t())
    compiled = sf.compile(model, policy="sparse", prune=None, kwargs=calls[0][1])
    sparse = [layer.name for layer in compiled.report.layers if layer.decision == "sparse"]
    assert sparse == ["transformer.h.0.mlp.c_fc"]
    with torch.no_grad():
        assert_same(compiled(**calls[0][1]), model(**calls[0][1]))


def test_tied_heads_stay_dense_and_say_why() -> None:
    model = zoo.text_model("gpt2")
    compiled = sf.compile(
        model, prune="magnitude", policy="sparse", skip_defaults=False, kwargs={"input_ids": zoo.tokens(2, 5)}
    )
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert layers["transformer.wte"].decision == "dense"
    assert "shared with" in layers["transformer.wte"].reason
    assert layers["transformer.h.0.attn.c_attn"].decision == "sparse"


@pytest.mark.parametrize(
    ("name", "epilogue", "activations", "residuals"),
    [("bert", "gelu", 2, 4), ("opt", "relu", 2, 3), ("gpt2", "none", 8, 4), ("llama", "none", 6, 4)],
)
def test_activations_and_residuals_are_part_of_the_layers(
    name: str, epilogue: str, activations: int, residuals: int
) -> None:
    model, calls = zoo.model_and_calls(name)
    compiled = sf.compile(model, prune="magnitude", policy="sparse", args=calls[0][0], kwargs=calls[0][1])
    layers = [line for line in compiled.mlir().splitlines() if '"sparse_gemm.linear"' in line]
    assert sum(f'epilogue = "{epilogue}"' in line for line in layers) == activations
    assert sum(", 1>, policy" in line for line in layers) == residuals


GATED = {"llama": "silu", "qwen3": "silu", "gemma3": "gelu_tanh", "phi3": "silu"}


@pytest.mark.parametrize(
    # One of each kind of gate, and of gates that are weights of their own and half of one, by inductor too.
    ("name", "inner"),
    [*((name, "eager") for name in GATED), ("gemma3", "inductor"), ("phi3", "inductor")],
)
def test_the_gate_is_part_of_its_layer_and_the_model_computes_the_same(name: str, inner: str) -> None:
    torch.manual_seed(0)
    model, calls = zoo.model_and_calls(name, layers=1)
    compiled = sf.compile(
        model, prune="magnitude", policy="sparse", inner=inner, args=calls[0][0], kwargs=calls[0][1]
    )
    assert compiled.mlir("sparse_gemm").count(f'epilogue = "{GATED[name]}_gated"') == 1
    with_gate = [r.name for r in compiled.report.layers if f"its {GATED[name]} gate is part" in r.reason]
    assert with_gate
    assert all("gate" in layer or "up" in layer for layer in with_gate)
    reference = zoo.pruned_as(model, compiled.report)
    with torch.no_grad():
        assert_same(compiled(*calls[0][0], **calls[0][1]), reference(*calls[0][0], **calls[0][1]))
