"""The option lm_head of sf.compile: the head in 2:4 or 8 bits, tied or not, saved and loaded."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import transformers as tf
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.runtime import PackedWeight, formats
from sparseflow.runtime.packed import pack

FORMATS = pytest.mark.parametrize("stored", ["2:4", "fp8", "int8"])
TIED = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def model_of(*, tied: bool) -> nn.Module:
    torch.manual_seed(0)
    config = tf.LlamaConfig(**{**zoo.GROUPED, "num_hidden_layers": 1, "tie_word_embeddings": tied})
    return tf.LlamaForCausalLM(config).eval()


def with_head(model: nn.Module, stored: str) -> nn.Module:
    """A copy of the model whose head has the weight that the format stands for, its embedding its own."""
    twin = copy.deepcopy(model)
    weight = sf.prune_24(model.lm_head.weight) if stored == "2:4" else model.lm_head.weight
    twin.lm_head.weight = nn.Parameter(pack(weight.detach(), stored).unpack())
    return twin


@functools.cache
def head_alone(stored: str, tied: bool) -> tuple[nn.Module, dict[str, torch.Tensor], sf.CompiledModel]:
    """A model, what its weights were, and the model compiled with a head in this format, of one capture."""
    model = model_of(tied=tied)
    before = copy.deepcopy(model.state_dict())
    return model, before, sf.compile(model, kwargs=call(), lm_head=stored, policy="sparse")


def call(rows: int = 7) -> dict[str, torch.Tensor]:
    return {"input_ids": zoo.tokens(2, rows)}


@FORMATS
@TIED
@torch.no_grad()
def test_the_head_alone_changes(stored: str, tied: bool) -> None:
    model, before, compiled = head_alone(stored, tied)
    twin = with_head(model, stored)
    for rows in (1, 2, 7):
        given = call(rows)
        torch.testing.assert_close(compiled(**given).logits, twin(**given).logits, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    row = next(r for r in compiled.report.layers if r.format)
    assert row.format == stored
    assert row.decision == ("sparse" if stored == "2:4" else "dense")
    assert row.reason.startswith(f"lm_head='{stored}'")
    assert row.bytes == formats.find(stored).nbytes(zoo.VOCABULARY, 32, "f32") < row.bytes_dense
    assert compiled.report.model["lm_head"] == stored


@FORMATS
@TIED
@torch.no_grad()
def test_beside_pruning_and_in_place(stored: str, tied: bool) -> None:
    model = model_of(tied=tied)
    twin = with_head(model, stored)
    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data = sf.prune_24(module.weight)
    compiled = sf.compile(model, lm_head=stored, policy="sparse", prune="magnitude", inplace=True)
    for rows in (1, 5):
        given = call(rows)
        torch.testing.assert_close(compiled(**given).logits, twin(**given).logits, rtol=1e-4, atol=1e-5)
    released = bool(model.lm_head.weight.isnan().all())
    assert released is not tied, "an embedding still reads a tied weight"


@FORMATS
@torch.no_grad()
def test_it_is_saved_and_loaded(stored: str, tmp_path: object) -> None:
    _, _, compiled = head_alone(stored, True)
    compiled.save(f"{tmp_path}/saved")
    loaded = sf.load(f"{tmp_path}/saved")
    for rows in (2, 7):
        given = call(rows)
        assert torch.equal(loaded(**given).logits, compiled(**given).logits)
    held = [m for m in loaded.graph().modules() if isinstance(m, PackedWeight)]
    assert [m.format.name for m in held] == [stored]


@pytest.mark.parametrize("stored", ["fp8", "int8"])
def test_generate_decodes_with_it(stored: str) -> None:
    model = model_of(tied=True)
    options = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
    compiled = sf.compile(model, lm_head=stored, policy="sparse", inner="eager")
    found = compiled.generate(zoo.tokens(1, 5), **options)
    assert torch.equal(found, with_head(model, stored).generate(found[:, :5], **options))


def test_wrong_values_are_refused() -> None:
    with pytest.raises(
        ArgumentError, match="lm_head must be one of '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8', None"
    ):
        sf.compile(model_of(tied=True), lm_head="int3")
    with pytest.raises(ArgumentError, match="Linear has no layer called lm_head"):
        sf.compile(nn.Linear(8, 8), lm_head="fp8")
    with pytest.raises(ArgumentError, match="format must be one of '2:4', '4:6', '6:8', '2:4-fp8', None\n"):
        sf.compile(model_of(tied=True), format="fp8")
