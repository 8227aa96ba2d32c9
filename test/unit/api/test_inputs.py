"""Inputs and models of every sort: as eager, or a refusal with the true way out."""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
import zoo
from isolated import BLOCK, warm_python
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, CaptureError, SparseFlowError

WIDTH = 16


def x() -> Tensor:
    return torch.randn(3, WIDTH)


class First(nn.Module):
    """Takes anything, and reads a tensor in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, value: Any, scale: Any = 1) -> Tensor:
        if isinstance(value, (dict, UserDict)):
            found = value["x"]
        elif isinstance(value, (list, tuple)):
            found = value[0]
        else:
            found = getattr(value, "x", value)
        return self.fc(found) * scale


Pair = namedtuple("Pair", "x y")


@dataclass
class Note:
    x: Tensor
    text: str = "note"


INPUTS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "tensor": lambda: (x(),),
    "list": lambda: ([x(), 3],),
    "tuple": lambda: ((x(), None),),
    "namedtuple": lambda: (Pair(x(), 2),),
    "dataclass": lambda: (Note(x()),),
    "dict": lambda: ({"x": x(), "other": "text"},),
    "ordered dict": lambda: (OrderedDict(x=x()),),
    "default dict": lambda: (defaultdict(list, x=x()),),
    "user dict": lambda: (UserDict(x=x()),),
    "parameter": lambda: (nn.Parameter(x(), requires_grad=False),),
    "int": lambda: (x(), 3),
    "float": lambda: (x(), 0.5),
    "numpy scalar": lambda: (x(), np.float32(0.5)),
    "empty batch": lambda: (torch.randn(0, WIDTH),),
    "strided": lambda: (torch.randn(3, 2 * WIDTH)[:, ::2],),
    "set": lambda: ({1, 2}, 1),
    "array": lambda: (np.zeros((3, WIDTH), np.float32),),
    "sparse": lambda: (x().to_sparse(),),
    "complex": lambda: (x().to(torch.complex64),),
    "double": lambda: (x().double(),),
    "meta": lambda: (x().to("meta"),),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_are_as_in_eager_or_refused(name: str) -> None:
    torch.manual_seed(0)
    model = First().eval()
    compiled = sf.compile(model)
    for _ in range(2):
        call = INPUTS[name]()
        with torch.no_grad():
            try:
                expected = model(*call)
            except Exception:
                with pytest.raises((SparseFlowError, TypeError, AttributeError, RuntimeError, KeyError)):
                    compiled(*call)
                continue
            try:
                found = compiled(*call)
            except SparseFlowError:
                assert name in ("sparse", "numpy scalar", "meta")
                continue
        if not expected.is_meta:
            torch.testing.assert_close(found, expected)


def test_a_batch_encoding_by_position_is_one_program() -> None:
    model = First().eval()
    compiled = sf.compile(model)
    for _ in range(3):
        encoding = tf.BatchEncoding({"x": x()}, encoding=[SimpleNamespace(n_sequences=1)])
        torch.testing.assert_close(compiled(encoding), model(encoding))
    assert compiled.report.model["programs"] == 1


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"args": torch.zeros(3, WIDTH)}, r"sf\.compile\(model, \(x,\)\)"),
        ({"args": {"x": 1}}, r"sf\.compile\(model, kwargs=inputs\)"),
        ({"kwargs": torch.zeros(3)}, "kwargs="),
    ],
)
def test_example_inputs_of_another_kind_are_refused(arguments: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ArgumentError, match=remedy):
        sf.compile(First().eval(), **arguments)


def test_a_model_that_runs_is_not_told_to_run() -> None:
    class Runs(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return value + torch.from_numpy(value.numpy())

    class Fails(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return value @ torch.ones(7, 7)

    with pytest.raises(CaptureError) as runs:
        sf.compile(Runs().eval())(x())
    assert "make sure that the model runs" not in str(runs.value)
    with pytest.raises(CaptureError, match="make sure that the model runs"):
        sf.compile(Fails().eval())(x())


def test_models_that_are_none_or_of_another_kind() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()).eval()
    value = x()
    for given in (lambda x: x, "model", torch.export.export(model, (value,))):
        with pytest.raises(ArgumentError, match=r"must be a torch\.nn\.Module"):
            sf.compile(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        others = [
            torch.fx.symbolic_trace(model),
            torch.export.export(model, (value,)).module(),
            torch.jit.script(model),
        ]
    for other in others:
        with torch.no_grad():
            try:
                found = sf.compile(other)(value)
            except SparseFlowError:
                continue
            torch.testing.assert_close(found, model(value))
    with pytest.raises(SparseFlowError):
        sf.compile(nn.Sequential(nn.LazyLinear(WIDTH)).eval())(value)


def test_without_the_compiler_every_door_names_the_extra(tmp_path) -> None:
    code = (
        BLOCK
        + """
import torch, sparseflow as sf
from sparseflow.errors import MissingDependencyError
model, x = torch.nn.Sequential(torch.nn.Linear(16, 16)).eval(), torch.randn(2, 16)
for door in (
    lambda: sf.compile(model)(x),
    lambda: sf.compile(model, (x,)),
    lambda: torch.compile(model, backend="sparseflow")(x),
    lambda: sf.tune(model, (x,)),
):
    try:
        door()
    except Exception as error:
        print(type(error).__name__, 'sparseflow[compiler]' in str(error))
"""
    )
    done = warm_python(code, tmp_path)
    lines = done.stdout.split("\n")[:3]
    assert lines == ["MissingDependencyError True"] * 3, done.stdout + done.stderr


def test_tokens_of_a_tokenizer_like_object() -> None:
    model = zoo.text_model("bert")
    compiled = sf.compile(model)
    batch = tf.BatchEncoding(
        {"input_ids": zoo.tokens(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    )
    with torch.no_grad():
        found, expected = compiled(**batch), model(**batch)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)


def test_a_parameter_is_told_from_a_tensor() -> None:
    class Tells(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2 if isinstance(x, nn.Parameter) else 1)

    model, tensor = Tells(WIDTH, WIDTH).eval(), x()
    compiled = sf.compile(model, inner="eager")
    for given in (tensor, nn.Parameter(tensor, requires_grad=False), tensor):
        torch.testing.assert_close(compiled(given), model(given))
    assert compiled.report.model["programs"] == 2


@pytest.mark.parametrize(
    ("subject", "asks"),
    [
        ("Tensor._version", lambda x: x._version > 0),
        ("Tensor._is_view", lambda x: x._is_view()),
        ("Tensor.untyped_storage", lambda x: x.untyped_storage().nbytes() > 0),
        (r"random\.random\(\)", lambda x: random.choice([1, 2, 3])),
        (r"numpy\.random", lambda x: float(np.random.rand())),
    ],
)
def test_what_differs_in_each_call_is_refused(subject: str, asks: Callable[[Tensor], float]) -> None:
    class Asks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * asks(x)

    with pytest.raises(CaptureError, match=f"^{subject}"):
        sf.compile(Asks(WIDTH, WIDTH).eval(), inner="eager")(x())
