"""Pruning leaves adapters alone unless it is told to prune them, and prunes the layers below."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.nn import SparseLinear

peft = pytest.importorskip("peft", reason="needs PEFT")

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
TARGETS = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=16, **TARGETS),
    "DoRA": lambda: peft.LoraConfig(r=16, use_dora=True, **TARGETS),
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=16, total_step=10, **TARGETS),
    "LoHa": lambda: peft.LoHaConfig(r=16, **TARGETS),
    "LoKr": lambda: peft.LoKrConfig(r=16, **TARGETS),
    "HiRA": lambda: peft.HiraConfig(r=16, **TARGETS),
    "MiSS": lambda: peft.MissConfig(r=16, **TARGETS),
    "VeRA": lambda: peft.VeraConfig(r=16, **TARGETS),
    "IA3": lambda: peft.IA3Config(**TARGETS, feedforward_modules=["down_proj"]),
    "OFT": lambda: peft.OFTConfig(oft_block_size=16, **TARGETS),
    "GraLoRA": lambda: peft.GraloraConfig(r=16, hybrid_r=16, **TARGETS),
    "Lily": lambda: peft.LilyConfig(r=16, **TARGETS),
    "Peanut": lambda: peft.PeanutConfig(r=16, **TARGETS),
}


def adapted(kind: str, **options) -> nn.Module:
    torch.manual_seed(0)
    try:
        config = CONFIGS[kind]()
    except AttributeError:
        pytest.skip(f"this PEFT has no {kind}")
    model = peft.get_peft_model(llama(**options), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def is_base(name: str) -> bool:
    plain = [name for name, module in llama().named_modules() if isinstance(module, nn.Linear)]
    return name.removeprefix("base_model.model.").removesuffix(".base_layer") in plain


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_layers_below_are_pruned_and_the_adapters_are_not(kind):
    model = adapted(kind)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    report = sf.prune(model, progress=False)
    pruned = [layer.name for layer in report.layers if layer.method is not None]
    assert len(pruned) == LAYERS
    assert all(map(is_base, pruned))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name.removesuffix(".weight") in pruned), name


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "Peanut"])  # whose product is no layer
@torch.no_grad()
def test_nor_are_they_when_compiling_prunes(kind):
    model = adapted(kind, num_hidden_layers=1)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    compiled(IDS)
    sparse = [layer.name for layer in compiled.report.layers if layer.decision == "sparse"]
    assert sparse
    assert all(map(is_base, sparse)), sparse


def test_nor_are_they_replaced_by_packed_layers():
    model = adapted("LoRA")
    replaced = sf.nn.sparsify(model, policy="sparse").replaced
    assert len(replaced) == LAYERS
    assert all(map(is_base, replaced))
    assert not any(isinstance(m, SparseLinear) for name, m in model.named_modules() if "lora_" in name)


@torch.no_grad()
def test_without_the_defaults_they_are_pruned_too():
    model = adapted("LoRA")
    sf.prune(model, skip_defaults=False, progress=False)
    found = [m.weight for name, m in model.named_modules() if "lora_" in name and isinstance(m, nn.Linear)]
    assert len(found) == 12
    assert all(map(sf.is_24, found))


def test_the_layers_of_a_prompts_encoder_are_left_alone():
    config = peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=32)
    model = peft.get_peft_model(llama(), config)
    sf.prune(model, progress=False)
    found = [m for name, m in model.prompt_encoder.named_modules() if isinstance(m, nn.Linear)]
    assert found
    assert not any(sf.is_24(layer.weight) for layer in found)
    assert sf.is_24(model.base_model.model.layers[0].mlp.up_proj.weight)
