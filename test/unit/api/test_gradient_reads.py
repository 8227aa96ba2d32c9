"""A forward that reads whether gradients are recorded sees what it would see in eager, or is refused."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import is_grad_enabled as grads_are_on

import sparseflow as sf
from sparseflow.errors import ArgumentError, CaptureError, InferenceOnlyError

pytestmark = pytest.mark.filterwarnings("ignore::sparseflow.errors.UnprunedWarning")

WIDTH = 16
MODES = {"on": torch.enable_grad, "off": torch.no_grad, "inference": torch.inference_mode}


class _Needs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 2 if ctx.needs_input_grad[0] else x * 3

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class Reader(nn.Module):
    """Multiply by 2 where the question's answer is yes."""

    def __init__(self, question: Callable[[Reader, Tensor, Tensor], object]) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("scale", torch.ones(WIDTH))
        self.question = question

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return y * 2 if self.question(self, x, y) else y


def _in_no_grad(model: Reader, x: Tensor, y: Tensor) -> bool:
    with torch.no_grad():
        inside = model.fc(x)
    with torch.enable_grad():
        return not inside.requires_grad and model.fc(inside).requires_grad and y.requires_grad


QUESTIONS = {
    "requires_grad of a result": lambda model, x, y: y.requires_grad,
    "requires_grad of an input": lambda model, x, y: x.requires_grad,
    "requires_grad of a parameter": lambda model, x, y: model.fc.weight.requires_grad,
    "requires_grad of a buffer": lambda model, x, y: not model.scale.requires_grad,
    "requires_grad of a detached result": lambda model, x, y: not y.detach().requires_grad,
    "grad_fn": lambda model, x, y: y.grad_fn is not None,
    "is_leaf of a result": lambda model, x, y: y.is_leaf,
    "is_leaf of an input": lambda model, x, y: x.is_leaf,
    "is_leaf of a view of a parameter": lambda model, x, y: model.fc.weight.T.is_leaf,
    "grad": lambda model, x, y: model.fc.weight.grad is None,
    "is_grad_enabled": lambda model, x, y: torch.is_grad_enabled(),
    "is_grad_enabled, renamed": lambda model, x, y: grads_are_on(),
    "is_inference_mode_enabled": lambda model, x, y: torch.is_inference_mode_enabled(),
    "modes inside": _in_no_grad,
}
"""What forward asks."""


def _question(name: str) -> Reader:
    torch.manual_seed(0)
    return Reader(QUESTIONS[name]).eval()


def _compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return sf.compile(model, policy="sparse", inner="eager", progress=False)


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_mode_gives_what_eager_does(question: str) -> None:
    model, x = _question(question), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    for mode in ("on", "off", "inference", "on"):
        with MODES[mode]():
            found = compiled(x)
            torch.testing.assert_close(found, model(x), msg=mode)
        assert not found.requires_grad


@pytest.mark.parametrize("name", ["statistics", "a_users_module"])
def test_a_module_that_is_called_like_one_of_pythons_asks_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text("from torch import is_grad_enabled as asks\ndef yes(model, x, y): return asks()\n")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    model, x = Reader(module.yes).eval(), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    for mode in ("on", "off"):
        with MODES[mode]():
            torch.testing.assert_close(compiled(x), model(x), msg=mode)


def test_what_a_differentiable_function_needs_is_as_in_eager() -> None:
    class Applies(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return _Needs.apply(super().forward(x))

    model, x = Applies(WIDTH, WIDTH).eval(), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    for mode in ("off", "on", "off"):
        with MODES[mode]():
            torch.testing.assert_close(compiled(x), model(x), msg=mode)


def test_a_model_that_hooks_its_results_runs_where_eager_does() -> None:
    class Hooks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            y.register_hook(lambda gradient: gradient)
            return y

    model, x = Hooks(WIDTH, WIDTH).eval(), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    torch.testing.assert_close(compiled(x), model(x))
    with torch.no_grad(), pytest.raises(CaptureError, match="doesn't require gradient"):
        compiled(x)


def test_an_input_that_says_something_else_of_its_gradients_has_another_program() -> None:
    model = Reader(lambda model, x, y: x.requires_grad and x.is_leaf).eval()
    compiled, plain = _compiled(model), torch.randn(3, WIDTH)
    leaf = plain.clone().requires_grad_()
    result = leaf * 1
    for x in (plain, leaf, result, plain, leaf):
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))
    assert len(compiled.report.model["captures"]) == 3


def test_two_arguments_that_are_one_tensor_say_what_it_says() -> None:
    class Two(Reader):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x) + y

    model = Two(lambda model, x, y: x.requires_grad and not x.is_leaf).eval()
    result = torch.randn(3, WIDTH).requires_grad_() * 1
    with torch.no_grad():
        torch.testing.assert_close(_compiled(model)(result, result[:]), model(result, result[:]))


def test_freezing_parameters_is_seen_where_forward_asks() -> None:
    model, x = _question("requires_grad of a result"), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    for requires in (True, False, True):
        model.requires_grad_(requires)
        torch.testing.assert_close(compiled(x), model(x))


def test_a_gradient_that_forward_reads_is_refused() -> None:
    model, x = _question("grad"), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    torch.testing.assert_close(compiled(x), model(x))
    model(x).sum().backward()
    with pytest.raises(CaptureError, match=r"Tensor\.grad: forward reads a gradient"):
        compiled(x)
    model.zero_grad()
    torch.testing.assert_close(compiled(x), model(x))


def test_what_forward_asked_is_saved(tmp_path) -> None:
    model, x = _question("requires_grad of a result"), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    for mode in ("on", "off"):
        with MODES[mode]():
            compiled(x)
    compiled.save(tmp_path / "artifact")
    loaded = sf.load(tmp_path / "artifact")
    for mode in ("off", "on"):
        with MODES[mode]():
            torch.testing.assert_close(loaded(x), model(x))
    with torch.inference_mode(), pytest.raises(ArgumentError, match="in inference mode, not off"):
        loaded(x)
    with torch.no_grad(), pytest.raises(ArgumentError, match="requires_grad is True, not False"):
        loaded(x.requires_grad_())


REFUSED = {
    "differentiates, and": lambda model, x, y: torch.autograd.grad(y.sum(), model.fc.weight),
    "differentiates": lambda model, x, y: y.sum().backward(),
    "argument 'x': forward sets whether it requires gradients": lambda model, x, y: (
        x.requires_grad_() is None
    ),
    r"fc\.weight: forward sets": lambda model, x, y: model.fc.weight.requires_grad_(False) is None,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_program_cant_do_is_refused_by_name(message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        _compiled(Reader(REFUSED[message]).eval())(torch.randn(3, WIDTH))


def test_whether_a_tensor_is_of_inference_mode_is_refused_in_it() -> None:
    model, x = Reader(lambda model, x, y: x.is_inference()).eval(), torch.randn(3, WIDTH)
    compiled = _compiled(model)
    torch.testing.assert_close(compiled(x), model(x))
    with torch.inference_mode():
        made_inside = torch.randn(3, WIDTH)
        with pytest.raises(CaptureError, match=r"ask torch\.is_inference_mode_enabled\(\)"):
            compiled(x)
    with torch.no_grad():
        torch.testing.assert_close(compiled(made_inside), model(made_inside))


def test_who_doesnt_ask_has_one_program_for_all_modes() -> None:
    """Among them torch's own layers, which ask and choose among equal implementations."""
    layer = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, batch_first=True).eval()
    compiled, x = _compiled(layer), torch.randn(2, 3, WIDTH)
    for mode in MODES:
        with MODES[mode]():
            torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    assert len(compiled.report.model["captures"]) == 1


class Broken(nn.Module):
    """Asks between two graphs of torch.compile."""

    def __init__(self, question: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.question = question

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch._dynamo.graph_break()
        return self.second(y * 2 if self.question(y) else y.relu_())


BETWEEN = {
    "requires_grad": lambda y: y.requires_grad,
    "grad_fn": lambda y: y.grad_fn is not None,
    "is_leaf": lambda y: y.is_leaf,
    "is_grad_enabled": lambda y: torch.is_grad_enabled(),
}


@pytest.mark.parametrize("question", BETWEEN)
def test_between_graphs_of_torch_compile_answers_are_as_in_eager(question: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, x = Broken(BETWEEN[question]).eval(), torch.randn(3, WIDTH)
    fast = torch.compile(model, backend="sparseflow", options={"policy": "sparse", "inner": "eager"})
    for mode in ("on", "off", "inference", "on"):
        with MODES[mode]():
            torch.testing.assert_close(fast(x), model(x), msg=mode)
    with pytest.raises(InferenceOnlyError, match="a compiled graph computes no gradients"):
        fast(x).sum().backward()
