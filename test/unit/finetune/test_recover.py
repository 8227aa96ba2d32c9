"""`sf.recover`: what it keeps, what it reads, and that it goes on after a kill."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds, LayerThreshold
from sparseflow.errors import (
    ArgumentError,
    CheckpointError,
    FinetuneError,
    InferenceOnlyError,
    MissingDependencyError,
)
from sparseflow.finetune import recovery_run
from sparseflow.finetune.left_out import LeftOut
from sparseflow.finetune.recovery_checkpoint import RecoveryFile
from sparseflow.finetune.recovery_text import Batches

QUICK = {"minutes": 5.0, "length": 16, "lr": 3e-3, "batch": 4, "progress": False}


def pair(name="llama", dtype=torch.float32):
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model(name)).to(dtype)
    model = copy.deepcopy(dense)
    sf.prune(model)
    return model, dense


def ids(count=640):
    return torch.randint(3, zoo.VOCABULARY, (count,), generator=torch.Generator().manual_seed(7))


def given(**more):
    """Options with which nothing is written, which is quickest."""
    return QUICK | {"text": ids(), "text_share": 1.0, "steps": 6} | more


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def test_a_model_that_writes_its_own_text_comes_closer_and_the_dense_one_stays():
    model, dense = pair()
    before, state = weights(dense), torch.get_rng_state()
    report = sf.recover(model, dense, tokens=400, steps=16, **QUICK)
    assert report.after < 0.8 * report.before
    assert report.tokens_written >= 400
    assert report.stopped == "steps"
    assert (report.steps, report.looks[0].step, report.looks[-1].step) == (16, 0, 16)
    assert report.after == min(look.loss for look in report.looks)
    assert report.notes == ("There is no tokenizer: every text begins with a random token.",)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(dense), strict=True))
    assert torch.equal(state, torch.get_rng_state()), "the caller's generator is left alone"
    assert "16 steps" in str(report)
    assert not model.training


@pytest.mark.parametrize("kept", [(2, 4), (4, 6), (3, 8)])
def test_zeros_of_any_pattern_stay_zeros_and_nothing_else_becomes_one(kept):
    most, group = kept
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model("llama"))
    model = copy.deepcopy(dense)
    layer = model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        wide = torch.nn.functional.pad(layer.weight, (0, -layer.in_features % group))
        parts = wide.unflatten(1, (-1, group))
        lowest = parts.abs().argsort(-1)[..., : group - most]
        parts.scatter_(-1, lowest, 0)
        layer.weight.copy_(wide[:, : layer.in_features])
    zeros = layer.weight == 0
    start = layer.weight.detach().clone()
    report = sf.recover(model, dense, **given(lr=3e-4))
    assert report.masked == ("model.layers.0.mlp.up_proj.weight",)
    assert report.zeros == int(zeros.sum())
    assert torch.equal(layer.weight == 0, zeros)
    assert not torch.equal(layer.weight, start)


def test_a_tied_weight_is_masked_once_and_stays_tied():
    import transformers as tf

    torch.manual_seed(0)
    dense = zoo.sharp(tf.LlamaForCausalLM(tf.LlamaConfig(tie_word_embeddings=True, **zoo.GROUPED))).eval()
    model = copy.deepcopy(dense)
    weight = model.lm_head.weight
    with torch.no_grad():
        weight[:, ::2] = 0
    report = sf.recover(model, dense, **given())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert report.masked == ("model.embed_tokens.weight",)
    assert not weight[:, ::2].any()
    assert not torch.equal(weight[:, 1::2], dense.lm_head.weight[:, 1::2])


def thresholds_of(dense, rate=0.6):
    return sf.calibrate_activations(dense, ids(256), rate=rate, window=32, progress=False)


def left_out_loss(model, dense, thresholds):
    """KL of a model that leaves inputs out, from the dense one, by hooks of its own."""
    x, hooks = ids(64).view(4, 16), []
    for name, layer in thresholds.items():

        def hook(module, args, limit=layer.threshold):
            kept = (args[0].abs() >= limit) | (torch.arange(args[0].shape[1]) < 4)[:, None]
            return (args[0] * kept,)

        hooks.append(model.get_submodule(name).register_forward_pre_hook(hook))
    with torch.no_grad():
        mine, theirs = (one(x).logits.log_softmax(-1) for one in (model, dense))
    for one in hooks:
        one.remove()
    return float(torch.nn.functional.kl_div(mine, theirs, log_target=True, reduction="batchmean"))


def test_a_dense_model_learns_to_leave_inputs_out():
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model("llama"))
    model, thresholds = copy.deepcopy(dense), thresholds_of(dense, 0.85)
    before = left_out_loss(model, dense, thresholds)
    report = sf.recover(model, dense, activations=thresholds, **given(text=ids(1280), steps=24))
    assert report.after < 0.9 * report.before
    renewed = sf.calibrate_activations(model, ids(256), rate=thresholds, window=32, progress=False)
    assert {n: one.rate for n, one in renewed.items()} == pytest.approx(
        {n: one.rate for n, one in thresholds.items()}, abs=0.01
    )
    assert left_out_loss(model, dense, renewed) < 0.97 * before
    assert (report.masked, report.zeros, report.left_out) == ((), 0, len(thresholds))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert "leave out inputs" in str(report)


def test_a_pruned_model_learns_to_leave_inputs_out_and_keeps_its_zeros():
    model, dense = pair()
    zeros = {name: p == 0 for name, p in model.named_parameters()}
    report = sf.recover(model, dense, activations=thresholds_of(dense), **given())
    assert report.masked
    assert report.left_out
    assert all(torch.equal(p == 0, zeros[n]) for n, p in model.named_parameters() if n in report.masked)


def test_gradients_pass_as_if_no_input_were_left_out():
    torch.manual_seed(0)
    dense = zoo.text_model("llama")
    name = "model.layers.0.mlp.down_proj"
    layer = dense.get_submodule(name)
    limits = ActivationThresholds({name: LayerThreshold(1e9, 1.0, 0.0, tuple(layer.weight.shape))})
    x = torch.randn(1, 6, layer.in_features, requires_grad=True)
    with LeftOut(dense, limits).held():
        y = layer(x)
    assert torch.equal(y[:, 4:], torch.zeros_like(y[:, 4:]))
    assert torch.equal(y[:, :4], layer(x)[:, :4])
    y.sum().backward()
    through = x.grad.clone()
    x.grad = None
    layer(x).sum().backward()
    assert torch.equal(through, x.grad)


def test_thresholds_follow_their_layers_inputs():
    torch.manual_seed(0)
    dense = zoo.text_model("llama")
    names = ("model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
    layers = [dense.get_submodule(name) for name in names]
    chosen = {
        name: LayerThreshold(limit, 0.4, 0.0, tuple(layer.weight.shape))
        for name, layer, limit in zip(names, layers, (0.5, 0.5, 0.0), strict=True)
    }
    left_out = LeftOut(dense, ActivationThresholds(chosen))
    x = [2 * torch.randn(8, 64, layer.in_features, requires_grad=True) for layer in layers]
    with left_out.held():
        for _ in range(40):
            layers[0](x[0])
            layers[0](x[0])  # as where a layer is recomputed
            layers[2](x[2])
            left_out.follow()
        with torch.no_grad():
            layers[1](x[1])
        left_out.follow()
    share = float((x[0].abs() < left_out.limits[0]).float().mean())
    assert share == pytest.approx(0.4, abs=0.01)
    assert left_out.limits[1:].tolist() == [0.5, 0.0], "what isn't trained, or leaves nothing out, stays"


def test_thresholds_of_another_model_are_refused():
    torch.manual_seed(0)
    dense = zoo.sharp(zoo.text_model("llama"))
    shape = (3, 5)
    for name in ("model.layers.0.mlp.down_proj", "nowhere"):
        limits = ActivationThresholds({name: LayerThreshold(0.1, 0.5, 0.0, shape)})
        with pytest.raises(ArgumentError, match=name):
            sf.recover(copy.deepcopy(dense), dense, activations=limits, **given())


def test_16_bit_weights_are_trained_in_32_and_given_back():
    model, dense = pair(dtype=torch.bfloat16)
    zeros = {name: p == 0 for name, p in model.named_parameters()}
    report = sf.recover(model, dense, **given(steps=12))
    assert report.after < report.before
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p == 0, zeros[n]) for n, p in model.named_parameters() if n in report.masked)


def test_the_learning_rate_grows_with_what_pruning_lost():
    model, dense = pair()
    report = sf.recover(model, dense, **given(lr=None, steps=2))
    assert 0.1 < report.before < 1.2, "within the limits"
    assert report.lr == pytest.approx(3e-4 * report.before / 0.3, rel=1e-5)
    assert sf.recover(model, dense, **given(lr=2e-4, steps=2)).lr == pytest.approx(2e-4)


def test_two_runs_with_one_seed_give_the_same_bits_and_another_seed_others():
    found = []
    for seed in (3, 3, 4):
        model, dense = pair()
        sf.recover(model, dense, **QUICK, tokens=200, steps=4, seed=seed)
        found.append(weights(model))
    assert all(map(torch.equal, found[0], found[1]))
    assert not all(map(torch.equal, found[0], found[2]))


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    options = QUICK | {"tokens": 200, "steps": 8}
    model, dense = pair()
    whole = sf.recover(model, dense, **options)
    expected = weights(model)

    monkeypatch.setattr(recovery_run, "SAVE_EVERY", 0.0)
    write, count = RecoveryFile.write, [0]

    def killed(self, state):
        write(self, state)
        count[0] += 1
        if count[0] == 2:
            raise KilledError

    monkeypatch.setattr(RecoveryFile, "write", killed)
    model, dense = pair()
    file = tmp_path / "run"
    with pytest.raises(KilledError):
        sf.recover(model, dense, **options, checkpoint=file)
    model, dense = pair()
    report = sf.recover(model, dense, **options, checkpoint=file)
    assert all(map(torch.equal, expected, weights(model)))
    assert [look.loss for look in report.looks] == [look.loss for look in whole.looks]
    assert report.tokens_trained == whole.tokens_trained
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "nothing partial is left"

    model, dense = pair()
    again = sf.recover(model, dense, **options, checkpoint=file)
    assert again.steps == 8
    assert all(map(torch.equal, expected, weights(model))), "a finished run is restored"
    model, dense = pair()
    with pytest.raises(ArgumentError, match="other models, other options"):
        sf.recover(model, dense, **options | {"lr": 1e-3}, checkpoint=file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="can't be read"):
        sf.recover(model, dense, **options, checkpoint=file)


def test_the_minutes_are_a_hard_limit():
    model, dense = pair()
    begun = time.monotonic()
    report = sf.recover(model, dense, minutes=0.05, length=16, batch=4, progress=False)
    assert report.stopped == "time"
    assert time.monotonic() - begun < 4.5
    assert report.minutes_writing < report.minutes


def test_it_settles_when_nothing_is_gained_and_keeps_the_best_weights(monkeypatch):
    model, dense = pair()
    before, rates, step = weights(model), [], recovery_run.Recovery._step
    monkeypatch.setattr(recovery_run.Recovery, "_step", lambda run, by: rates.append(by) or step(run, by))
    report = sf.recover(model, dense, **given(lr=1.0, steps=60))
    assert report.stopped == "no gain"
    assert report.steps == len(rates) < 60
    assert 0 < rates[-1] < 0.2 * max(rates), "the learning rate fell to zero before it stopped"
    assert rates[-6:] == sorted(rates[-6:], reverse=True)
    assert report.after == report.before
    assert all(map(torch.equal, before, weights(model)))
    assert "gained nothing" in report.notes[-1]


def test_a_loss_that_is_not_finite_is_an_error_and_the_best_weights_stay():
    model, dense = pair()
    before = weights(model)
    with pytest.raises(FinetuneError, match="not finite"):
        sf.recover(model, dense, **given(lr=1e30, steps=60))
    assert all(map(torch.equal, before, weights(model)))


def test_parts_of_a_step_add_up_to_the_step():
    found = []
    for micro in (4, 2, 1):
        model, dense = pair()
        sf.recover(model, dense, **given(micro=micro, steps=2))
        found.append(weights(model))
    for other in found[1:]:
        assert all(torch.allclose(a, b, atol=2e-4) for a, b in zip(found[0], other, strict=True))


def test_recomputed_layers_give_the_same_and_dropout_stays_off():
    import transformers as tf

    found = []
    for again in (False, True):
        torch.manual_seed(0)
        config = tf.LlamaConfig(attention_dropout=0.5, **zoo.GROUPED)
        dense = zoo.sharp(tf.LlamaForCausalLM(config)).eval()
        model = copy.deepcopy(dense)
        sf.prune(model)
        sf.recover(model, dense, **given(gradient_checkpointing=again, steps=3))
        found.append(weights(model))
        assert not any(module.training for module in model.modules())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_own_text_and_the_users_are_mixed_by_the_share():
    model, dense = pair()
    report = sf.recover(model, dense, **QUICK, tokens=200, steps=1, text=ids(4000), text_share=0.25)
    rows = report.tokens_given / 16
    assert rows / (rows + report.tokens_written // 16) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_is_recovered_on_sentences_of_its_own(name):
    model, dense = pair(name)
    report = sf.recover(model, dense, tokens=200, steps=8, **QUICK)
    assert report.after < report.before
    assert report.unit == ("objective" if name == "bert" else "nats a token")
    assert report.tokens_trained < 8 * 4 * 16, "padding doesn't count"


def test_a_model_of_images_is_recovered_on_batches():
    import transformers as tf

    torch.manual_seed(0)
    dense = zoo.sharp(tf.ViTModel(tf.ViTConfig(**zoo.IMAGE))).eval()
    model = copy.deepcopy(dense)
    sf.prune(model)
    batches = [{"pixel_values": torch.randn(3, 3, 16, 16)} for _ in range(6)]
    report = sf.recover(model, dense, text=batches, steps=6, lr=3e-3, progress=False)
    assert report.after < report.before
    assert (report.tokens_written, report.held_out) == (0, 1)
    with pytest.raises(ArgumentError, match="neither a decoder"):
        sf.recover(model, dense)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"minutes": 0}, ArgumentError, "above 0"),
        ({"minutes": math.nan}, ArgumentError, "above 0"),
        ({"length": 2}, ArgumentError, "at least 8"),
        ({"batch": 4, "micro": 3}, ArgumentError, "must divide"),
        ({"optimizer": "sgd"}, ArgumentError, "must be one of"),
        ({"optimizer": "adamw-8bit"}, ArgumentError, "GPUs only"),
        ({"text": []}, ArgumentError, "holds nothing"),
        ({"text": "words"}, ArgumentError, "no tokenizer"),
        ({"text": torch.zeros(3, 3)}, ArgumentError, "1-d token ids"),
        ({"text": ids(20)}, FinetuneError, "too little text"),
        ({"checkpoint": "/nowhere/file"}, ArgumentError, "a folder that exists"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_wrong_options_are_refused_before_anything_changes(change, error, says):
    model, dense = pair()
    before = weights(model)
    with pytest.raises(error, match=says):
        sf.recover(model, dense, **given() | change)
    assert all(map(torch.equal, before, weights(model)))


def test_wrong_models_are_refused():
    model, dense = pair()
    with pytest.raises(ArgumentError, match="shares its weights"):
        sf.recover(model, model, **given())
    with pytest.raises(ArgumentError, match="no weight of this"):
        sf.recover(copy.deepcopy(dense), dense, **given())
    with pytest.raises(ArgumentError, match="parameters aren't those"):
        sf.recover(model, zoo.text_model("gpt2"), **given())
    with pytest.raises(ArgumentError, match="must be a torch"):
        sf.recover("model", dense, **given())
    with pytest.raises(InferenceOnlyError, match="training mode"):
        sf.recover(model, copy.deepcopy(dense).train(), **given())


def test_an_optimiser_of_another_library_is_named_if_it_is_missing(monkeypatch):
    from sparseflow.finetune import optimizers

    parameter = torch.nn.Parameter(torch.zeros(2, device="meta"))
    monkeypatch.setattr(optimizers, "_on_gpu", lambda parameters: True)
    with pytest.raises(MissingDependencyError, match="bitsandbytes or torchao"):
        optimizers.make_optimizer("adamw-8bit", [parameter], 1e-3)
    with pytest.raises(MissingDependencyError, match="torchao"):
        optimizers.make_optimizer("adamw-offload", [parameter], 1e-3)


def test_a_text_file_is_read_by_the_tokenizer(tmp_path):
    path = Path(tmp_path / "text.txt")
    path.write_text(" ".join(f"w{i % 90}" for i in range(200)))
    model, dense = pair()
    report = sf.recover(model, dense, **given(text=path, tokenizer=zoo.word_tokenizer(), steps=1))
    assert report.tokens_given == 192


@pytest.mark.parametrize(
    ("shapes", "alike"), [([(2, 8)] * 3, True), ([(2, 8), (2, 9)], False), ([(2, 8), (1, 8)], False)]
)
def test_batches_are_alike_where_all_have_one_shape(shapes, alike):
    calls = [((), {"input_ids": torch.zeros(shape, dtype=torch.int64)}) for shape in shapes]
    assert Batches(calls, 1).alike == alike


def test_batches_of_other_dtypes_or_names_are_not_alike():
    ids = torch.zeros(2, 8, dtype=torch.int64)
    assert not Batches([((ids,), {}), ((ids.int(),), {})], 1).alike
    assert not Batches([((), {"input_ids": ids}), ((), {"inputs": ids})], 1).alike
