"""Weights stay 2:4 at every step of any optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5),
    "adam with L2": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.5),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.05),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.GELU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 3))


def pruned():
    model = network()
    sf.prune(model, skip=("4",))
    return model


def step(model, optimizer):
    nn.functional.cross_entropy(model(torch.randn(8, 10)), torch.randint(3, (8,))).backward()
    optimizer.step()
    optimizer.zero_grad()


def zeros(model):
    return [model[index].weight == 0 for index in (0, 2)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dropped_weights_and_their_moments_stay_zero_at_every_step_while_the_others_train(name):
    model = pruned()
    optimizer, dropped, start = OPTIMIZERS[name](model.parameters()), zeros(model), copy.deepcopy(model)
    with sf.finetune.masked(model) as masks:
        assert masks.layers == ("0", "2")
        for _ in range(5):
            step(model, optimizer)
            for index, zero in zip((0, 2), dropped, strict=True):
                weight = model[index].weight
                assert not weight[zero].any()
                assert not weight[zero].signbit().any()
                moments = [v for v in optimizer.state[weight].values() if v.shape == weight.shape]
                assert all(not moment[zero].any() for moment in moments)
    assert (model[0].weight != start[0].weight)[~dropped[0]].all()
    assert (model[4].weight != start[4].weight).all()


def test_moments_from_before_the_masks_move_nothing():
    model = network()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    step(model, optimizer)
    sf.prune(model)
    dropped = zeros(model)
    with sf.finetune.masked(model):
        step(model, optimizer)
        step(model, optimizer)
    assert all(torch.equal(before, after) for before, after in zip(dropped, zeros(model), strict=True))
    assert not optimizer.state[model[0].weight]["exp_avg"][dropped[0]].any()


def test_accumulated_gradients_of_dropped_weights_are_zero():
    model = pruned()
    model(torch.randn(4, 10)).sum().backward()
    with sf.finetune.masked(model):
        model(torch.randn(4, 10)).sum().backward()
        assert not model[0].weight.grad[model[0].weight == 0].any()
        assert model[0].weight.grad.any()


def test_masking_ends_with_the_block():
    model = pruned()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    with sf.finetune.masked(model):
        pass
    step(model, optimizer)
    assert not sf.is_24(model[0].weight)


def test_a_group_with_fewer_nonzeros_than_two_may_grow_to_two():
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        model[0].weight.zero_()[:, 1] = 1.0
    with sf.finetune.masked(model):
        model(torch.ones(1, 8)).sum().backward()
    assert torch.equal(model[0].weight.grad != 0, torch.tensor([[True, True, False, False] * 2] * 4))


def test_frozen_layers_conv1d_and_odd_widths_are_masked():
    torch.manual_seed(0)
    model = zoo.text_model("gpt2").train()
    model.add_module("odd", nn.Linear(7, 5))
    sf.prune(model)
    frozen = model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    before = frozen.clone()
    optimizer = OPTIMIZERS["adamw"]([p for p in model.parameters() if p.requires_grad])
    with sf.finetune.masked(model) as masks:
        ids = zoo.tokens(2, 12)
        loss = model(input_ids=ids, labels=ids).loss + model.odd(torch.randn(2, 7)).sum()
        loss.backward()
        optimizer.step()
    assert {"odd", "transformer.h.1.attn.c_attn"} <= set(masks.layers)
    assert torch.equal(frozen, before)
    assert sf.is_24(model.transformer.h[1].attn.c_attn.weight.t())
    assert sf.is_24(model.odd.weight)


def test_a_model_without_24_layers_is_refused():
    with pytest.raises(
        ArgumentError, match=r"none of the linear layers of this Sequential is 2:4, 4:6 or 6:8"
    ):
        sf.finetune.Masks.of(network())


def test_the_trainers_callback_keeps_weights_24(tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    model = zoo.text_model("llama")
    sf.prune(model)
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    data = [{"input_ids": row, "labels": row} for row in zoo.tokens(8, 12)]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=3,
        weight_decay=0.1,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )
    Trainer(
        model, arguments, train_dataset=data, callbacks=[sf.integrations.transformers.MaskCallback()]
    ).train()
    after = model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(after == 0, before == 0)
    assert not torch.equal(after, before)
