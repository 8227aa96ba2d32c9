"""Distillation brings a pruned model back towards its dense original."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import zoo

import sparseflow as sf
from sparseflow.errors import ArgumentError, FinetuneError
from sparseflow.finetune import Objective, distill


def pair(name):
    torch.manual_seed(0)
    dense = zoo.text_model(name)
    model = copy.deepcopy(dense)
    sf.prune(model)
    return model, dense, [{"input_ids": zoo.tokens(4, 16)} for _ in range(6)]


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("llama", None),
        ("gpt2", Objective(kl=1.0, hidden=0.5, temperature=2.0)),
        ("bert", None),
        ("bert", Objective(mse=1.0)),
    ],
)
def test_distillation_lowers_its_loss_and_keeps_24(name, objective):
    model, dense, batches = pair(name)
    before = [p.clone() for p in dense.parameters()]
    report = distill(model, dense, batches, steps=40, lr=3e-3, objective=objective)
    assert sum(report.losses[-6:]) < 0.5 * sum(report.losses[:6])
    assert len(report.masked) >= 8
    assert sf.finetune.Masks.of(model).layers == report.masked
    assert all(torch.equal(a, b) for a, b in zip(before, dense.parameters(), strict=True))
    assert "40 steps" in str(report)


def test_two_runs_with_one_seed_give_the_same_bits_and_another_seed_others():
    weights = []
    for seed in (3, 3, 4):
        model, dense, batches = pair("llama")
        model.train()
        distill(model, dense, batches, steps=5, seed=seed)
        weights.append(model.model.layers[1].mlp.down_proj.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_torchs_generator_is_left_alone():
    model, dense, batches = pair("llama")
    state = torch.get_rng_state()
    distill(model, dense, batches, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_task_needs_no_teacher():
    model, _, batches = pair("llama")
    labelled = [batch | {"labels": batch["input_ids"]} for batch in batches]
    report = distill(model, None, labelled, steps=30, lr=1e-2, objective=Objective(task=1.0))
    assert report.losses[-1] < report.losses[0]


def test_terms_are_what_they_say():
    torch.manual_seed(0)
    mine, theirs = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    rows = mask.bool()
    inputs = {"attention_mask": mask}

    def found(term, **fields):
        student, teacher = ({k: v[i] for k, v in fields.items()} for i in (0, 1))
        return Objective(**term)(SimpleNamespace(**student), SimpleNamespace(**teacher), inputs).item()

    p, q = (F.softmax(x[rows] / 2, -1) for x in (theirs, mine))
    expected = 4 * (p * (p / q).log()).sum(-1).mean().item()
    assert found({"kl": 1.0, "temperature": 2.0}, logits=(mine, theirs)) == pytest.approx(expected, rel=1e-5)
    lost = (mine - theirs)[rows].square().sum(-1) / theirs[rows].square().sum(-1)
    expected = lost.mean().item()
    assert found({"hidden": 2.0}, hidden_states=((mine,), (theirs,))) == pytest.approx(2 * expected, rel=1e-5)
    means = [torch.stack([x[0, :2].mean(0), x[1, 0]]) for x in (mine, theirs)]
    expected = 1 - F.cosine_similarity(*means).mean().item()
    assert found({"cosine": 1.0}, last_hidden_state=(mine, theirs)) == pytest.approx(expected, rel=1e-5)
    expected = (means[0] - means[1]).square().mean().item() / means[1].square().mean().item()
    assert found({"mse": 1.0}, last_hidden_state=(mine, theirs)) == pytest.approx(expected, rel=1e-5)


def test_a_token_with_massive_activations_does_not_hide_the_others():
    torch.manual_seed(0)
    theirs = torch.randn(1, 8, 5)
    theirs[:, 0] *= 1e4  # as the first token of Llama-like models has them
    mine = theirs + 0.5 * torch.randn(1, 8, 5)
    outputs = (SimpleNamespace(hidden_states=(states,)) for states in (mine, theirs))
    assert Objective(hidden=1.0)(*outputs, {}).item() > 0.1


def test_a_loss_that_is_not_finite_names_its_step():
    model, dense, batches = pair("llama")
    model.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(FinetuneError, match=r"step 1 of 3: the loss is nan"):
        distill(model, dense, batches, steps=3)


def test_wrong_arguments_are_refused():
    model, dense, batches = pair("llama")
    cases = [
        ((model, model, batches), {"steps": 2}, "is the model itself"),
        ((model, None, batches), {"steps": 2}, "the objective needs a teacher"),
        ((model, copy.deepcopy(dense).train(), batches), {"steps": 2}, "is in training mode"),
        ((model, dense, iter(batches)), {"steps": 9}, "ran out after 6 of 9 steps"),
        ((model, dense, []), {"steps": 1}, "ran out after 0 of 1"),
        ((model, dense, [3]), {"steps": 1}, "batch 0: is a int"),
        ((model, dense, batches[0]), {"steps": 1}, "must be an iterable of batches, not a dict"),
        ((model, dense, 3), {"steps": 1}, "must be an iterable of batches, not a int"),
        ((model, dense, batches), {"steps": 0}, "must be a positive integer"),
        ((model, dense, batches), {"steps": 1, "lr": 0.0}, "must be > 0"),
        ((dense, model, batches), {"steps": 1}, "none of the linear layers"),
        (
            (model, dense, batches),
            {"steps": 1, "objective": Objective(cosine=1.0)},
            "reads `last_hidden_state`",
        ),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ArgumentError, match=message):
            distill(*arguments, **options)
    with pytest.raises(ArgumentError, match="one of them > 0"):
        Objective()
