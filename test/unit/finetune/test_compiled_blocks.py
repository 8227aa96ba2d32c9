"""Layers of a model that trains, run by torch.compile."""

import copy

import pytest
import torch
import transformers as tf
from torch import nn

import sparseflow as sf
from sparseflow.finetune.compiled_blocks import compiled_blocks, repeated_blocks
from sparseflow.finetune.left_out import LeftOut


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    return tf.LlamaForCausalLM(config).eval()


def test_layers_share_what_is_compiled_and_are_themselves_again(llama):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    ids = torch.randint(64, (2, 9))
    expected = llama(input_ids=ids, use_cache=False).logits
    torch._dynamo.reset()
    with compiled_blocks(llama, backend=backend) as blocks:
        assert blocks == list(llama.model.layers)
        found = llama(input_ids=ids, use_cache=False).logits
        found.sum().backward()
    assert len(graphs) == 1, "a graph for each layer takes a layer's time to compile"
    torch.testing.assert_close(found, expected)
    assert all(layer.mlp.down_proj.weight.grad is not None for layer in llama.model.layers)
    llama(input_ids=ids[:1], use_cache=False)
    assert len(graphs) == 1
    copy.deepcopy(llama)


def test_the_longest_list_of_one_class_counts():
    model = nn.Module()
    model.heads = nn.ModuleList([nn.Linear(2, 2)])
    model.mixed = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), nn.ReLU()])
    assert repeated_blocks(model) == []
    model.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    assert repeated_blocks(model) == list(model.layers)


def test_recovery_with_compiled_layers_learns_as_without(llama, monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append((self, options)))
    text = torch.randint(64, (4000,), generator=torch.Generator().manual_seed(1))
    losses = {}
    for compiles in (None, True):
        asked.clear()
        dense, model = copy.deepcopy(llama), copy.deepcopy(llama)
        sf.prune(model, progress=False)
        report = sf.recover(
            model,
            dense,
            9.0,
            text,
            text_share=1.0,
            length=16,
            steps=3,
            compile_layers=compiles,
            progress=False,
        )
        losses[compiles] = report.after
        assert len(asked) == (6 if compiles else 0), "layers of both models, on a CPU only if asked"
    assert losses[True] == pytest.approx(
        losses[None], rel=1e-3
    )  # the loss is compiled too, and rounds otherwise


def halved(module, args):
    return (args[0] / 2,)


def test_hooks_of_one_layer_or_one_model_are_not_lost_in_shared_code(llama):
    other = copy.deepcopy(llama)
    llama.model.layers[1].mlp.down_proj.register_forward_pre_hook(halved)
    ids = torch.randint(64, (2, 9))
    expected = [model(input_ids=ids, use_cache=False).logits for model in (other, llama)]
    assert not torch.equal(*expected)
    torch._dynamo.reset()
    with torch.no_grad(), compiled_blocks(other, llama, backend="aot_eager"):
        found = [model(input_ids=ids, use_cache=False).logits for model in (other, llama)]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("grad", [False, True])
def test_layers_that_leave_inputs_out_share_code_and_each_has_its_threshold(llama, grad):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    ids = torch.randint(64, (4, 16))
    thresholds = sf.calibrate_activations(llama, [ids], rate=0.5, progress=False)
    dense = copy.deepcopy(llama)
    left_out = LeftOut(llama, thresholds)
    torch._dynamo.reset()
    with left_out.held(), torch.set_grad_enabled(grad):
        expected = llama(input_ids=ids, use_cache=False).logits
        with compiled_blocks(dense, llama, backend=backend):
            dense(input_ids=ids, use_cache=False)
            found = llama(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected)
    assert len(graphs) == 2
    limits = left_out.limits.clone()
    left_out.follow()
    assert torch.equal(limits, left_out.limits) != grad, "only training moves thresholds"
