"""PEFT over packed layers: adapted, trained, saved and loaded as over dense ones; and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from isolated import warm_python
from torch import nn
from unit.checkpoints.tiny import LAYERS, llama

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.nn import SparseLinear

peft = pytest.importorskip("peft", reason="needs PEFT")

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
TARGETS = ["q_proj", "v_proj", "down_proj"]
LORA = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS}


def packed(dtype: torch.dtype = torch.float32, **options) -> nn.Module:
    model = llama(dtype, **options)
    sf.nn.sparsify(model, policy="sparse")
    return model


def dense(dtype: torch.dtype = torch.float32, **options) -> nn.Module:
    model = llama(dtype, **options)
    sf.prune(model, progress=False)
    return model


def adapted(model: nn.Module, config: object = None, scale: float = 0.1) -> nn.Module:
    model = peft.get_peft_model(model, config or peft.LoraConfig(**LORA))
    randomised(model, scale)
    return model


@torch.no_grad()
def randomised(model: nn.Module, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if hasattr(module, "lora_A")]


def loss(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS).loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_and_gradients_are_those_over_the_dense_24_weight(dtype):
    ours, theirs = adapted(packed(dtype)), adapted(dense(dtype))
    assert layers(ours) == layers(theirs)
    assert len(layers(ours)) == 2 * len(TARGETS)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.02}
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, **tolerance)
    for model in (ours, theirs):
        loss(model).backward()
    expected = dict(theirs.named_parameters())
    trained = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert len(trained) == 4 * len(TARGETS)
    for name, grad in trained.items():
        assert grad.abs().sum() > 0
        torch.testing.assert_close(grad, expected[name].grad, **tolerance)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_training_lowers_the_loss_and_leaves_the_packed_weights_alone(bias):
    model = peft.get_peft_model(packed(), peft.LoraConfig(**LORA, bias=bias, lora_dropout=0.1))
    frozen = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    first = loss(model.eval()).item()
    for _ in range(10):
        loss(model.train()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss(model.eval()).item() < 0.9 * first
    assert all(torch.equal(buffer, frozen[name]) for name, buffer in model.named_buffers())
    biases = [m.bias for m in model.modules() if isinstance(m, SparseLinear) and m.bias is not None]
    assert sum(b.requires_grad for b in biases) == {"none": 0, "all": 8, "lora_only": 4}[bias]


@torch.no_grad()
def test_an_adapter_is_saved_and_loaded_over_packed_and_dense_models(tmp_path):
    model = adapted(packed())
    expected = model(IDS).logits
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(packed(), tmp_path)
    torch.testing.assert_close(again(IDS).logits, expected)
    over_dense = peft.PeftModel.from_pretrained(dense(), tmp_path)
    torch.testing.assert_close(over_dense(IDS).logits, expected, rtol=1e-4, atol=1e-5)
    names = set(peft.utils.load_peft_weights(tmp_path))
    assert len(names) == 4 * len(TARGETS)
    assert all("lora_" in name for name in names)


@torch.no_grad()
def test_into_a_packed_folders_model_itself(tmp_path):
    from transformers import AutoModelForCausalLM

    packed().save_pretrained(tmp_path / "packed")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed")
    plain = model(IDS).logits
    model = peft.inject_adapter_in_model(peft.LoraConfig(**LORA), model)
    assert len(layers(model)) == 2 * len(TARGETS)
    randomised(model)
    assert not torch.allclose(model(IDS).logits, plain)
    for name in layers(model):
        model.get_submodule(name).enable_adapters(False)
    torch.testing.assert_close(model(IDS).logits, plain)


def test_transformers_trainer_trains_adapters_over_a_packed_folder(tmp_path):
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    packed().save_pretrained(tmp_path / "packed")
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "packed"),
        peft.LoraConfig(**LORA, task_type="CAUSAL_LM"),
    )
    first = loss(model).item()
    options = {"max_steps": 8, "learning_rate": 0.02, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments(
        tmp_path / "out", per_device_train_batch_size=2, gradient_checkpointing=True, **options
    )
    data = [{"input_ids": ids, "labels": ids} for ids in IDS]
    Trainer(model, arguments, train_dataset=data).train()
    assert loss(model.eval()).item() < first


@torch.no_grad()
def test_all_linear_means_packed_layers_too():
    model = peft.get_peft_model(packed(), peft.LoraConfig(r=4, target_modules="all-linear"))
    assert len(layers(model)) == LAYERS
    model.add_adapter("second", peft.LoraConfig(r=4, target_modules="all-linear"))
    assert len(layers(model)) == LAYERS
    assert all("second" in model.get_submodule(name).lora_A for name in layers(model))


@torch.no_grad()
def test_a_users_own_class_for_packed_layers_goes_first():
    from peft.tuners.lora.layer import Linear

    class Mine(Linear):
        pass

    config = peft.LoraConfig(**LORA)
    config._register_custom_module({SparseLinear: Mine})
    model = peft.get_peft_model(packed(), config)
    assert {type(model.get_submodule(name)) for name in layers(model)} == {Mine}


REFUSED = {
    "DoRA": ({"use_dora": True}, "variant Dora.*packed"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "'pissa'.*packed"),
    "OLoRA": ({"init_lora_weights": "olora"}, "'olora'.*packed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_the_dense_weight_is_refused_by_name(case):
    options, message = REFUSED[case]
    with pytest.raises(ArgumentError, match=f"{message}\n.*densify"):
        peft.get_peft_model(packed(), peft.LoraConfig(**LORA, **options))


ORDERS = ["import sparseflow, peft", "import peft, sparseflow", "import sparseflow, peft, sparseflow.nn"]


@pytest.mark.parametrize("imports", ORDERS)
def test_whichever_is_imported_first(imports, tmp_path):
    code = f"""
        {imports}
        import sys
        assert "sparseflow.integrations.peft.layer" not in sys.modules
        import torch
        import sparseflow as sf
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 16))
        plain = peft.get_peft_model(torch.nn.Sequential(*model), peft.LoraConfig(r=2, target_modules=["0"]))
        assert type(plain.base_model.model[0]).__module__ == "peft.tuners.lora.layer"
        sf.nn.sparsify(plain.unload(), policy="sparse")
        model = plain.unload()
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"]))
        assert type(adapted.base_model.model[0]).__name__ == "SparseLoraLinear"
    """
    done = warm_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("base", [dense, packed], ids=["dense", "packed"])
@torch.no_grad()
def test_a_compiled_model_follows_every_change_of_its_adapters(base):
    model = adapted(base(num_hidden_layers=1), peft.LoraConfig(**LORA, task_type="CAUSAL_LM"))
    model.add_adapter("other", peft.LoraConfig(r=3, target_modules=["q_proj", "up_proj"]))
    randomised(model)
    model.eval()
    compiled = sf.compile(model, policy="sparse")
    seen: list[torch.Tensor] = []

    def check(changes: bool = True) -> None:
        expected = model(IDS).logits
        torch.testing.assert_close(compiled(IDS).logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled(IDS[:1]).logits, expected[:1], rtol=1e-4, atol=1e-5)
        assert not (changes and seen and torch.allclose(seen[-1], expected, rtol=1e-3, atol=1e-3))
        seen.append(expected)

    check()
    model.set_adapter("other")
    check()
    model.base_model.set_adapter(["default", "other"])
    check()
    model.set_adapter("default")
    check()
    with model.disable_adapter():
        check()
    check()
    for name in layers(model):
        model.get_submodule(name).set_scale("default", 3.0)
    check()
    randomised(model, 0.2)
    check()
    model.merge_adapter()
    check(changes=base is packed)  # packed layers lose what falls on their zeros
    model.unmerge_adapter()
    check(changes=base is packed)
    model.set_adapter("other")
    model.delete_adapter("default")
    check()


@torch.no_grad()
def test_of_a_compiled_peft_model_the_layers_below_are_sparse_and_the_adapters_are_not():
    model = adapted(dense(), peft.LoraConfig(**LORA | {"r": 32})).eval()
    compiled = sf.compile(model, policy="sparse")
    compiled(IDS)
    found = {layer.name: layer for layer in compiled.report.layers}
    assert sum(layer.decision == "sparse" for layer in found.values()) == LAYERS
    assert found["base_model.model.model.layers.0.self_attn.q_proj.base_layer"].decision == "sparse"
    adapter = found["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default"]
    assert (adapter.decision, adapter.reason) == ("dense", "skipped by the pattern '*lora_*'")


def test_an_old_peft_is_refused(monkeypatch):
    from sparseflow.integrations.peft import layer

    class Old(nn.Module):
        def __init__(self, base_layer, adapter_name, **options):
            super().__init__()

    monkeypatch.setattr(layer, "Linear", Old)
    with pytest.raises(ArgumentError, match=r"peft: .* 0\.19"):
        peft.get_peft_model(packed(), peft.LoraConfig(**LORA))


def test_a_copy_of_an_adapted_packed_model_is_one_of_its_own():
    model = adapted(packed())
    other = copy.deepcopy(model)
    loss(other).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(other(IDS).logits, model(IDS).logits)
