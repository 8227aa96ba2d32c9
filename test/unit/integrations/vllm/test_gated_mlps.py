"""MLPs of vLLM whose gate becomes part of the product, and those that keep it."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from vllm_rank import one_rank

import sparseflow as sf

HIDDEN, INNER = 64, 96


@pytest.fixture
def engine():
    with one_rank(policy="sparse") as config:
        yield config


def method():
    from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig

    config = SparseFlowEngineConfig.from_config({"quant_method": "sparseflow"})
    config.packed_modules_mapping = {"gate_up_proj": ["gate_proj", "up_proj"]}
    return config


def built(kind, config):
    """An MLP in float32 with 2:4 weights that have come; and these."""
    from vllm.utils.torch_utils import set_default_torch_dtype

    with set_default_torch_dtype(torch.float32):
        mlp = kind(HIDDEN, INNER, "silu", quant_config=config, prefix="model.layers.0.mlp")
    gate, up = (sf.prune_24(torch.randn(INNER, HIDDEN)) for _ in range(2))
    down = sf.prune_24(torch.randn(HIDDEN, INNER))
    for layer, parts in ((mlp.gate_up_proj, [(gate, 0), (up, 1)]), (mlp.down_proj, [(down,)])):
        for tensor, *shard in parts:
            layer.weight.weight_loader(layer.weight, tensor, *shard)
    return mlp, (gate, up, down)


def require_output(mlp, weights) -> None:
    gate, up, down = (w.double() for w in weights)
    for m in (1, 5, 40):
        x = torch.randn(m, HIDDEN)
        wide = x.double()
        exact = (F.silu(wide @ gate.T) * (wide @ up.T)) @ down.T
        torch.testing.assert_close(mlp(x), exact.float(), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("module", ["llama", "qwen2"])
def test_the_product_gates(engine, module) -> None:
    found = importlib.import_module(f"vllm.model_executor.models.{module}")
    before = set(torch.nn.modules.module._global_module_registration_hooks)
    config = method()
    mlp, weights = built(getattr(found, f"{module.capitalize()}MLP"), config)
    assert config.layers.gated == {"model.layers.0.mlp.gate_up_proj": "silu_gated"}
    assert isinstance(mlp.act_fn, nn.Identity)
    assert mlp.gate_up_proj(torch.randn(3, HIDDEN))[0].shape == (3, INNER)
    assert "sparseflow: 1 MLPs gate in the product of gate and up" in list(config.layers.lines())
    require_output(mlp, weights)
    assert set(torch.nn.modules.module._global_module_registration_hooks) <= before


def test_an_engine_that_is_refused_leaves_no_hook() -> None:
    """The hook sees every module of the process, so it goes with those who watched."""
    from sparseflow.integrations.vllm.gated_mlps import Parents

    hooks = torch.nn.modules.module._global_module_registration_hooks
    before, parents = set(hooks), Parents()
    parents.watch(nn.Linear(4, 4))
    assert len(set(hooks) - before) == 1
    del parents
    assert set(hooks) <= before


def test_an_mlp_that_does_more_keeps_its_gate(engine) -> None:
    from vllm.model_executor.models.llama import LlamaMLP

    class Clamped(LlamaMLP):
        def forward(self, x):
            x, _ = self.gate_up_proj(x)
            x = self.act_fn(x.clamp(-1e4, 1e4))
            x, _ = self.down_proj(x)
            return x

    config = method()
    mlp, weights = built(Clamped, config)
    assert config.layers.gated == {}
    require_output(mlp, weights)


def test_another_activation_keeps_its_place(engine) -> None:
    from vllm.model_executor.layers.activation import SiluAndMul
    from vllm.model_executor.models.llama import LlamaMLP

    class Doubled(SiluAndMul):
        def forward(self, x):
            return 2 * super().forward(x)

    class Other(LlamaMLP):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.act_fn = Doubled()

    config = method()
    mlp, _ = built(Other, config)
    assert config.layers.gated == {}
    assert isinstance(mlp.act_fn, Doubled)


def test_with_lora_the_gate_stays(engine, monkeypatch) -> None:
    from vllm.model_executor.models.llama import LlamaMLP

    monkeypatch.setattr(engine, "lora_config", object())
    config = method()
    mlp, weights = built(LlamaMLP, config)
    assert config.layers.gated == {}
    require_output(mlp, weights)
