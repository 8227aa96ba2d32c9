"""A compiled or loaded model converts, copies, saves and trains as it is asked to, or refuses by name."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, InferenceOnlyError, SparseFlowError


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x))) * self.scale

    def save_pretrained(self, path: str) -> None:
        raise AssertionError("wrote the dense model")

    def push_to_hub(self, path: str) -> None:
        raise AssertionError("wrote the dense model")

    def resize_token_embeddings(self, size: int) -> None:
        raise AssertionError("changed the model")


X = torch.randn(3, 32)


@pytest.fixture(scope="module")
def original():
    return Small().eval()


@pytest.fixture(scope="module")
def compiled(original):
    return sf.compile(original, (X,), prune="magnitude", policy="sparse")


@pytest.fixture(scope="module")
def loaded(compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "artifact"
    compiled.save(folder)
    return sf.load(folder)


@pytest.fixture(params=["compiled", "loaded", "shallow"])
def frozen(request):
    found = request.getfixturevalue("loaded" if request.param == "loaded" else "compiled")
    return copy.copy(found) if request.param == "shallow" else found


REFUSED = {
    "state_dict": lambda m: m.state_dict(),
    "load_state_dict": lambda m: m.load_state_dict({}),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "double": lambda m: m.double(),
    "to dtype": lambda m: m.to(torch.float16),
    "to device": lambda m: m.to("meta"),
    "to like": lambda m: m.to(torch.zeros(1, dtype=torch.float64)),
    "type": lambda m: m.type(torch.float64),
    "to_empty": lambda m: m.to_empty(device="cpu"),
    "cuda": lambda m: m.cuda() if not torch.cuda.is_available() else m.half(),
    "a module around": lambda m: nn.Sequential(m).half(),
    "a module around's state": lambda m: nn.Sequential(m).state_dict(),
    "pickle": pickle.dumps,
    "torch.save": lambda m: torch.save(m, io.BytesIO()),
    "apply": lambda m: m.apply(lambda module: None),
    "share_memory": lambda m: m.share_memory(),
    "jit.script": torch.jit.script,
    "replicas": lambda m: m._replicate_for_data_parallel(),
    "prune": sf.prune,
    "compile": sf.compile,
    "sparsify": sf.nn.sparsify,
    "densify": sf.nn.densify,
    "prepare": sf.nn.prepare,
    "prune a module around": lambda m: sf.prune(nn.Sequential(m, nn.Linear(32, 32))),
    "profile": sf.profile,
    "tune": sf.tune,
    "train_predictor": lambda m: sf.train_predictor(m, [X]),
    "distill": lambda m: sf.finetune.distill(m, None, [X], steps=1),
    "masked": lambda m: sf.finetune.masked(m).__enter__(),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_nothing_changes(frozen, name):
    before = frozen(X)
    with pytest.raises(ArgumentError) as caught:
        REFUSED[name](frozen)
    assert caught.value.remedy
    assert torch.equal(frozen(X), before)


@pytest.mark.parametrize("call", [lambda m: m.train(), lambda m: m.requires_grad_(), lambda m: m.zero_grad()])
def test_training_is_refused(frozen, call):
    with pytest.raises(InferenceOnlyError, match="inference only"):
        call(frozen)


def test_what_changes_nothing_is_done(frozen):
    for same in (frozen.eval(), frozen.float(), frozen.cpu(), frozen.to("cpu"), frozen.to(torch.float32)):
        assert same is frozen
    assert frozen.train(False).requires_grad_(False) is frozen
    assert nn.Sequential(frozen).float().eval()[0] is frozen
    assert [name for name, _ in frozen.named_modules()] == [""]


@pytest.mark.parametrize("name", ["save_pretrained", "push_to_hub", "resize_token_embeddings"])
def test_methods_that_write_or_change_the_original_are_refused_when_called(compiled, name):
    assert hasattr(compiled, name)
    with pytest.raises(ArgumentError, match=name) as caught:
        getattr(compiled, name)("somewhere")
    assert f"model.{name}" in caught.value.remedy


def test_parameters_are_those_of_the_model(compiled, original, loaded):
    assert [name for name, _ in compiled.named_parameters()] == [
        name for name, _ in original.named_parameters()
    ]
    assert next(compiled.parameters()) is original.up.weight
    assert [name for name, _ in compiled.named_buffers()] == ["scale"]
    with pytest.raises(ArgumentError, match=r"parameters\(\)"):
        next(loaded.parameters())


def test_a_deep_copy_is_compiled_on_its_own(compiled, loaded):
    with pytest.raises(ArgumentError, match="can't be copied"):
        copy.deepcopy(loaded)
    other = copy.deepcopy(compiled)
    assert torch.equal(other(X), compiled(X))
    assert other.model_behind is not compiled.model_behind
    whole = sf.compile(Small().eval(), (X,), prune="magnitude", inplace=True)
    with pytest.raises(ArgumentError, match="released"):
        copy.deepcopy(whole)
    assert torch.equal(copy.copy(whole)(X), whole(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_compile_and_data_parallel_run_it(frozen):
    expected = frozen(X)
    torch.testing.assert_close(torch.compile(frozen, backend="eager")(X), expected)
    torch.testing.assert_close(nn.DataParallel(frozen)(X), expected)


def test_a_traced_one_is_right_or_refused(frozen):
    try:
        traced = torch.jit.trace(frozen, (X,))
    except SparseFlowError:
        return
    other = torch.randn(5, 32)
    torch.testing.assert_close(traced(other), frozen(other))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(32, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x)


def test_packed_layers_convert_copy_and_are_saved(tmp_path):
    model = Layers().eval()
    sf.nn.sparsify(model, policy="sparse")
    with torch.no_grad():
        expected = model(X)
        for other in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(X), expected)
        half = copy.deepcopy(model).bfloat16()
        torch.testing.assert_close(half(X.bfloat16()).float(), expected, rtol=0.1, atol=0.1)
        with pytest.raises(SparseFlowError):
            copy.deepcopy(model).double()(X.double())
        torch.save(model.state_dict(), tmp_path / "state.pt")
        other = Layers().eval()
        sf.nn.sparsify(other, policy="sparse")
        other.load_state_dict(torch.load(tmp_path / "state.pt"))
        assert torch.equal(other(X), expected)
