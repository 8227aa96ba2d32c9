"""What a model holds besides weights: captures leave it alone; what forward changes is carried or refused."""

from __future__ import annotations

import copy
import functools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
import zoo
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, CaptureError, SparseFlowError

WIDTH = 16


def row(*sizes: int) -> Tensor:
    return torch.randn(*(sizes or (3,)), WIDTH)


def test_hidden_states_leave_no_hooks_on_the_users_model() -> None:
    model = zoo.text_model("llama")
    ids = zoo.tokens(2, 5)
    fresh = copy.deepcopy(model)
    compiled = sf.compile(model)
    with torch.no_grad():
        for options in ({"output_hidden_states": True}, {}, {"output_attentions": False, "use_cache": False}):
            found, expected = compiled(ids, **options), copy.deepcopy(fresh)(ids, **options)
            assert list(found) == list(expected)
            torch.testing.assert_close(found.logits, expected.logits)
        assert len(compiled(ids, output_hidden_states=True).hidden_states) == 3
        assert len(model(ids, output_hidden_states=True).hidden_states) == 3
        assert len(compiled(ids, output_hidden_states=True).hidden_states) == 3


def held(model: nn.Module) -> list[Any]:
    """Everything about the modules that a capture might leave something in."""
    return [
        {
            key: dict(value)
            if isinstance(value, dict)
            else list(value)
            if isinstance(value, (list, set))
            else value
            for key, value in vars(module).items()
            if not isinstance(value, (Tensor, nn.Module))
        }
        for module in model.modules()
    ]


class Leaving(nn.Module):
    """Leaves all sorts of things behind, the same in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.memo: dict[str, Tensor] = {}
        self.queue: deque[int] = deque(maxlen=1)
        self.ordered = OrderedDict(a=1)

    def forward(self, x: Tensor) -> Tensor:
        self.ordered["a"] = 1
        return self.fc(x)


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_leaves_the_model_as_it_was(fails: bool) -> None:
    class Model(Leaving):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x
            self.fc.register_forward_hook(lambda module, args, out: out)
            self.register_buffer("late", x, persistent=False)
            self.memo["x"] = x
            if fails and x.sum() > 0:
                return x
            return super().forward(x)

    model = Model().eval()
    before = held(model)
    with pytest.raises(SparseFlowError):
        sf.compile(model, (row(),))
    assert held(model) == before
    assert not model.fc._forward_hooks
    assert list(model.state_dict()) == ["fc.weight", "fc.bias"]


def sequence(make: Callable[[], nn.Module], calls: int = 4) -> None:
    """A model compiled from the beginning does in every call what an equal one does."""
    torch.manual_seed(0)
    model = make().eval()
    expected = copy.deepcopy(model)
    compiled = sf.compile(model)
    with torch.no_grad():
        for number in range(calls):
            x = row(3 + number % 2) if number > 1 else row()
            torch.testing.assert_close(compiled(x[:3]), expected(x[:3]))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        self.h = y if self.h is None else self.h + y
        return self.h


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(WIDTH, WIDTH), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) * self.calls


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.past: dict[str, Tensor] = {}
        self.log: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x) + self.past.get("y", torch.zeros(1))
        self.past["y"] = y
        self.log = [*self.log[-1:], y.mean()]
        return y + len(self.log)


class Noting(nn.Module):
    """Keeps numbers without reading them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.notes: dict[str, Tensor] = {}
        self.log: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        self.notes["mean"] = (x + y[:1]).mean()
        self.log.append(y.mean())
        return y


def test_what_forward_only_writes_is_there_afterwards() -> None:
    torch.manual_seed(0)
    model, x = Noting().eval(), row()
    expected = copy.deepcopy(model)
    compiled = sf.compile(model)
    with torch.no_grad():
        for _ in range(3):
            compiled(x), expected(x)
    torch.testing.assert_close(model.notes, expected.notes)
    torch.testing.assert_close(model.log, expected.log)


@pytest.mark.parametrize("make", [Recurrent, Counting, Remembering], ids=lambda kind: kind.__name__)
def test_what_forward_keeps_in_attributes_is_carried_from_call_to_call(make: type[nn.Module]) -> None:
    sequence(make)


STORE: list[Tensor] = []


class Outside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        STORE.append(x)
        return x + len(STORE)


class OfTheClass(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        OfTheClass.calls += 1
        return x + OfTheClass.calls


class Memo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(len(self.seen))
        return x + len(self.seen)


@pytest.mark.parametrize(
    ("model", "name"),
    [(Outside(), "STORE"), (OfTheClass(), "calls"), (Memo(), "Memo.seen")],
    ids=lambda v: str(v)[:9],
)
def test_what_can_not_be_carried_is_refused_by_name(model: nn.Module, name: str) -> None:
    before = len(STORE), OfTheClass.calls
    with pytest.raises(CaptureError, match=name):
        sf.compile(model.eval())(row())
    assert (len(STORE), OfTheClass.calls) == before


@pytest.mark.parametrize("runs_first", [False, True])
def test_recurrent_gemma_from_never_run_and_from_run(runs_first: bool) -> None:
    torch.manual_seed(0)
    config = tf.RecurrentGemmaConfig(
        num_hidden_layers=2,
        block_types=("recurrent", "attention"),
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
        lru_width=32,
        vocab_size=96,
        attention_window_size=16,
        conv1d_width=4,
        num_key_value_heads=1,
    )
    model = tf.RecurrentGemmaForCausalLM(config).eval()
    expected = copy.deepcopy(model)
    compiled = sf.compile(model)
    ids = zoo.tokens(2, 3)
    with torch.no_grad():
        if runs_first:
            model(ids), expected(ids)
        for call in (ids, ids.flip(0), ids):
            torch.testing.assert_close(compiled(call).logits, expected(call).logits, rtol=1e-4, atol=1e-4)


def test_first_calls_in_several_threads_and_eager_ones_beside_them() -> None:
    torch.manual_seed(0)
    models = [
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)).eval() for _ in range(4)
    ]
    compiled = [sf.compile(model) for model in models]
    x = row()
    wrong: list[str] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        run = compiled[number] if number < 4 else models[number - 4]
        try:
            for _ in range(1 if number < 4 else 50):
                with torch.no_grad():
                    if not torch.allclose(run(x), expected[number % 4], atol=1e-5):
                        wrong.append(f"{number} differs")
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}")

    with torch.no_grad():
        expected = [model(x) for model in models]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


@pytest.mark.parametrize("how", ["method", "function", "partial"])
def test_a_model_whose_forward_is_the_compiled_one(how: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).eval(), row()
    expected = model(x)
    compiled = sf.compile(model)
    model.forward = {
        "method": compiled.forward,
        "function": lambda *args: compiled(*args),
        "partial": functools.partial(compiled),
    }[how]
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model(x[:2]), expected[:2])
    assert compiled.report.model["programs"] == 1


def test_a_compiled_model_assigned_as_forward_is_refused() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH)).eval()
    compiled = sf.compile(model)
    with pytest.raises(ArgumentError, match=r"assign compiled\.forward"):
        model.forward = compiled
    assert list(model._modules) == ["0"]


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fc = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.inner(x))


def test_compiled_parts_of_a_model_to_compile() -> None:
    model, x = Outer().eval(), row()
    with torch.no_grad():
        expected = model(x)
        model.inner.forward = sf.compile(model.inner).forward
        torch.testing.assert_close(sf.compile(model)(x), expected)
        other = Outer().eval()
        other.load_state_dict(model.state_dict())
        other.inner = sf.compile(other.inner)
        torch.testing.assert_close(sf.compile(other)(x), expected)
        other.inner = sf.compile(model.inner, prune="magnitude")
        with pytest.raises(CaptureError, match="part of a model that is being compiled"):
            sf.compile(other)(x)


def test_a_hook_that_calls_the_compiled_form_is_refused() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH)).eval()
    compiled = sf.compile(model)
    model[0].register_forward_hook(lambda module, args, out: compiled(args[0]))
    with pytest.raises(CaptureError, match="its own compiled form"):
        compiled(row())


class Makers(OrderedDict):
    """As transformers' ACT2FN: what is looked up is made anew."""

    def __getitem__(self, key):
        return super().__getitem__(key)()


MAKERS = Makers(relu=nn.ReLU, tanh=nn.Tanh)


class Making(nn.Module):
    def forward(self, x):
        return MAKERS["relu"](x) - MAKERS["tanh"](x)


def test_a_dict_that_gives_something_else_than_it_holds_is_left_as_it_is() -> None:
    model, x = Making().eval(), torch.randn(3, 4)
    torch.testing.assert_close(sf.compile(model)(x), model(x))
    assert list(MAKERS.values()) == [nn.ReLU, nn.Tanh]
    MAKERS.move_to_end("relu")
    torch.testing.assert_close(sf.compile(model)(x), model(x))
    assert list(MAKERS) == ["tanh", "relu"]
