"""Adapters merged into a model leave it as sparse as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.errors import ArgumentError, FinetuneError, SparseFlowError
from sparseflow.nn import SparseLinear
from sparseflow.runtime import PackedWeight

peft = pytest.importorskip("peft", reason="needs PEFT")

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]


def pruned(dtype: torch.dtype = torch.float32, packed: bool = False) -> nn.Module:
    model = llama(dtype)
    sf.prune(model, progress=False)
    if packed:
        sf.nn.sparsify(model, policy="sparse")
    return model


def adapted(model: nn.Module, **options) -> nn.Module:
    """With two adapters of random weights, the first one active."""
    config = {"r": 16, "lora_alpha": 24, "target_modules": TARGETS} | options
    model = peft.get_peft_model(model, peft.LoraConfig(**config))
    model.add_adapter("other", peft.LoraConfig(**config | {"r": 4}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def weight(layer: nn.Module) -> Tensor:
    return layer.weight.unpack() if isinstance(layer, SparseLinear) else layer.weight.detach()


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of the plain model."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, SparseLinear | nn.Linear) and "lora_" not in name
    }


def references(model: nn.Module, adapters: tuple[str, ...]) -> dict[str, Tensor]:
    """By layer: mask ⊙ (W + Σ scale · B · A), in fp64 and rounded once."""
    found = {name: weight(layer).clone() for name, layer in linears(model).items()}
    for path, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        name = path.removeprefix("base_model.model.")
        dense = found[name]
        merged = dense.double()
        for adapter in adapters:
            b, a = (getattr(module, part)[adapter].weight.double() for part in ("lora_B", "lora_A"))
            merged = merged + module.scaling[adapter] * b @ a
        kept = dense != 0 if sf.is_24(dense) else torch.ones_like(dense, dtype=torch.bool)
        found[name] = (merged * kept).to(dense.dtype)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("adapters", [("default",), ("default", "other"), ("other",)])
@torch.no_grad()
def test_every_weight_is_the_masked_sum(dtype, packed, adapters):
    model = adapted(pruned(dtype, packed))
    model.base_model.set_adapter(list(adapters))
    expected = references(model, adapters)
    merged = sf.integrations.peft.merge_adapters(model)
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name, _ in merged.named_modules())
    found = linears(merged)
    assert found.keys() == expected.keys()
    assert sum(isinstance(layer, SparseLinear) for layer in found.values()) == packed * LAYERS
    tolerance = {"rtol": 2e-2, "atol": 1e-3} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    for name, layer in found.items():
        torch.testing.assert_close(weight(layer), expected[name], **tolerance)
        assert sf.is_24(weight(layer)) == (name != "lm_head")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@torch.no_grad()
def test_as_many_layers_run_sparse(dtype, packed):
    merged = sf.integrations.peft.merge_adapters(adapted(pruned(dtype, packed)))
    compiled = sf.compile(merged, policy="sparse")
    tolerance = {"rtol": 5e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(compiled(IDS).logits, merged(IDS).logits, **tolerance)
    if not packed:
        before = sf.compile(pruned(dtype), policy="sparse")
        before(IDS)
        assert sparse(compiled) == sparse(before) == LAYERS


def sparse(compiled: sf.CompiledModel) -> int:
    return sum(layer.decision == "sparse" for layer in compiled.report.layers)


@torch.no_grad()
def test_named_adapters_are_merged_whichever_is_active():
    model = adapted(pruned())
    expected = references(model, ("other",))
    merged = sf.integrations.peft.merge_adapters(model, adapters=["other"])
    for name, layer in linears(merged).items():
        torch.testing.assert_close(weight(layer), expected[name], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_layer_that_is_not_24_is_merged_in_full():
    base = llama()
    sf.prune(base, skip=("*.q_proj",), progress=False)
    model = adapted(base)
    expected = references(model, ("default",))
    merged = sf.integrations.peft.merge_adapters(model)
    for name, layer in linears(merged).items():
        torch.testing.assert_close(weight(layer), expected[name], rtol=1e-5, atol=1e-6)
        assert sf.is_24(weight(layer)) == (name != "lm_head" and not name.endswith("q_proj"))


@torch.no_grad()
def test_packed_layers_merge_and_unmerge_by_pefts_own_methods():
    model = adapted(pruned(packed=True))
    before = {name: weight(layer).clone() for name, layer in linears(model).items()}
    expected = references(model, ("default",))
    dense = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer
    dense.weight.keep_dense()
    model.merge_adapter()
    for name, layer in linears(model).items():
        torch.testing.assert_close(weight(layer), expected[name], rtol=1e-5, atol=1e-6)
    assert torch.equal(dense.weight.dense, weight(dense))
    model.unmerge_adapter()
    for name, layer in linears(model).items():
        torch.testing.assert_close(weight(layer), before[name], rtol=1e-5, atol=1e-6)
    model.merge_adapter()
    merged = sf.integrations.peft.merge_adapters(model)
    for name, layer in linears(merged).items():
        torch.testing.assert_close(weight(layer), expected[name], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_of_a_packed_weight_a_stored_zero_is_a_place_that_an_adapter_may_fill():
    values, positions = torch.full((16, 8), 2.0), torch.full((16, 2), 0xEE, dtype=torch.uint8)  # 2 and 3
    values[:, ::2] = 0
    layer = SparseLinear(PackedWeight((values, positions), 16), torch.zeros(16), policy="sparse")
    model = adapted(nn.Sequential(layer), target_modules=["0"])
    delta = model.base_model.model[0].get_delta_weight("default")
    merged = weight(sf.integrations.peft.merge_adapters(model)[0]).reshape(16, 4, 4)
    assert not merged[..., :2].any()
    expected = delta.reshape(16, 4, 4)[..., 2:] + torch.tensor([0.0, 2.0])
    torch.testing.assert_close(merged[..., 2:], expected)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True, "target_modules": ["q_proj"]}])
@torch.no_grad()
def test_what_else_lora_does_is_merged_as_peft_does_and_masked(options):
    model = adapted(pruned(), **options)
    twin = copy.deepcopy(model).merge_and_unload()
    zero = {name: weight(layer) == 0 for name, layer in linears(model).items()}
    merged = sf.integrations.peft.merge_adapters(model)
    for name, layer in linears(merged).items():
        expected = twin.get_submodule(name)
        masked = expected.weight if name == "lm_head" else expected.weight.masked_fill(zero[name], 0)
        torch.testing.assert_close(layer.weight, masked)
        if layer.bias is not None:
            torch.testing.assert_close(layer.bias, expected.bias)


@torch.no_grad()
def test_of_gpt2s_layers_that_store_their_weights_transposed_too():
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64)).eval()
    sf.prune(base, progress=False)
    model = adapted(base, target_modules=["c_attn"], fan_in_fan_out=True)
    layer = model.base_model.model.transformer.h[0].attn.c_attn
    delta, old = layer.get_delta_weight("default"), layer.base_layer.weight.clone()
    merged = sf.integrations.peft.merge_adapters(model).transformer.h[0].attn.c_attn
    torch.testing.assert_close(merged.weight, (old + delta) * (old != 0))
    assert sf.is_24(merged.weight.t())


def already_merged() -> nn.Module:
    model = adapted(pruned())
    model.merge_adapter()
    return model


def broken() -> nn.Module:
    model = adapted(pruned())
    model.base_model.model.model.layers[1].mlp.up_proj.lora_B["default"].weight.data[3, 1] = float("nan")
    return model


def prompted() -> nn.Module:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return peft.get_peft_model(pruned(), config)


REFUSED = {
    "no PEFT model": (pruned, ArgumentError, "LlamaForCausalLM.*\n.*get_peft_model"),
    "prompts": (prompted, ArgumentError, "PeftModelForCausalLM.*\n.*get_peft_model"),
    "not pruned": (
        lambda: adapted(llama()),
        ArgumentError,
        "none of the 8 adapted layers is 2:4, 4:6 or 6:8.*\n.*sf.prune",
    ),
    "merged": (
        already_merged,
        ArgumentError,
        "layers.0.self_attn.q_proj.*merged into it.*\n.*unmerge_adapter",
    ),
    "no bias": (
        lambda: adapted(pruned(), lora_bias=True),
        ArgumentError,
        "layers.0.mlp.up_proj.*'default' has a bias.*\n.*lora_bias",
    ),
    "not finite": (broken, FinetuneError, "layers.1.mlp.up_proj.*NaN.*\n.*load the model again"),
}


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_merged_is_refused_by_name(case):
    make, error, message = REFUSED[case]
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=message) as raised:
        sf.integrations.peft.merge_adapters(model)
    assert isinstance(raised.value, SparseFlowError)
    if error is ArgumentError:
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_adapter_that_is_not_there_is_refused():
    with pytest.raises(ArgumentError, match="no adapter 'third'; it has 'default', 'other'"):
        sf.integrations.peft.merge_adapters(adapted(pruned()), adapters=["third"])
