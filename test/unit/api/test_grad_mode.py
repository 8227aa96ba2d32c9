"""What trains refuses where gradients are ruled out, and trains where they are only turned off."""

import copy

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.errors import ArgumentError

IDS = torch.randint(3, zoo.VOCABULARY, (512,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    return zoo.text_model("llama")


@pytest.fixture
def pruned(dense):
    model = copy.deepcopy(dense)
    sf.prune(model)
    return model


def recover(dense, pruned):
    how = {"text_share": 1.0, "length": 16, "steps": 2, "batch": 2, "progress": False}
    sf.recover(pruned, dense, 2, IDS, **how)


def distill(dense, pruned):
    sf.finetune.distill(pruned, dense, [{"input_ids": IDS[None, :32]}] * 2, steps=2, progress=False)


def calibrate(dense, pruned):
    sf.calibrate_activations(dense, IDS, rate=0.4, window=32, progress=False)


def reconstruct(dense, pruned):
    model = copy.deepcopy(dense)
    sf.prune(model, "wanda", [IDS[None, :64]], reconstruct="block", steps=2, progress=False)


def predict(dense, pruned):
    sf.train_predictor(dense, [IDS[None, :64]], steps=2, progress=False)


def sparsify(dense, pruned):
    sf.sparsify(copy.deepcopy(dense), max_loss=0.5, minutes=0.2, text=IDS, progress=False)


CALLS = [recover, distill, calibrate, reconstruct, predict]


@pytest.mark.parametrize("call", [*CALLS, sparsify])
def test_within_inference_mode_they_refuse_and_change_nothing(call, dense, pruned):
    before = [p.clone() for p in (*dense.parameters(), *pruned.parameters())]
    with torch.inference_mode(), pytest.raises(ArgumentError, match="gradients") as caught:
        call(dense, pruned)
    assert "outside" in str(caught.value)
    after = [*dense.parameters(), *pruned.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_within_no_grad_they_work(call, dense, pruned):
    with torch.no_grad():
        call(dense, pruned)
        assert not torch.is_grad_enabled()
