"""The way through the frontend and back, compared with eager."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.frontend import CapturedProgram, Executable, ImportedProgram, capture, import_program
from sparseflow.lowering import DenseWeights, to_fx
from sparseflow.runtime.calling.structure import flatten

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Built:
    captured: CapturedProgram
    imported: ImportedProgram
    graph: torch.fx.GraphModule
    run: Executable


def build(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Built:
    captured = capture(model, args, kwargs)
    context = ir.Context()
    dialect.load(context)
    imported = import_program(captured, context)
    assert imported.module.operation.verify()
    graph = to_fx(imported.module, DenseWeights(imported.weights))
    run = Executable(graph, imported.signature, captured.call_signature, dict(imported.weights))
    return Built(captured, imported, graph, run)


def assert_equal(found: Any, expected: Any) -> None:
    """Same structure, types and constants; tensors equal within rounding."""
    one, other = flatten(found), flatten(expected)
    assert one.structure == other.structure
    for a, b in zip(one.leaves, other.leaves, strict=True):
        assert type(a) is type(b)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


def compare(model: torch.nn.Module, built: Built, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Run one call both ways: same output, same changes to inputs and buffers."""
    assert built.captured.accepts(args, kwargs) is None
    before = copy.deepcopy(model.state_dict())
    eager_args, eager_kwargs = copy.deepcopy((tuple(args), kwargs))
    with torch.no_grad():
        expected = model(*eager_args, **eager_kwargs)
    after = copy.deepcopy(model.state_dict())
    model.load_state_dict(before)
    found = built.run(*args, **kwargs)
    assert_equal(found, expected)
    assert_equal((tuple(args), kwargs), (eager_args, eager_kwargs))
    assert_equal(dict(model.state_dict()), dict(after))


@pytest.fixture
def round_trip() -> Callable[..., Built]:
    """Capture `model` for the first call, and compare all calls with eager."""

    def check(model: torch.nn.Module, *calls: Call) -> Built:
        args, kwargs = copy.deepcopy(calls[0])
        built = build(model, *args, **kwargs)
        for args, kwargs in calls:
            compare(model, built, args, kwargs)
        return built

    torch.manual_seed(0)
    return check


@pytest.fixture
def build_program() -> Callable[..., Built]:
    return build
