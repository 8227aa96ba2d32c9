"""What `warmup` measures of a compiled model beside its dense one; times are recorded, none is asserted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import SlowerWarning
from sparseflow.execution import comparison
from sparseflow.reports import WRITERS, Source, page_of
from sparseflow.reports.report import Report

X = torch.randn(4, 64)


class Counting(nn.Module):
    """Counts its calls in a buffer, and writes an input where it is given one more."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x)


class Writing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        last.add_(1)
        return self.fc(x)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()


def compiled_of(model: nn.Module, **options: Any) -> sf.CompiledModel:
    return sf.compile(model.eval(), prune="magnitude", policy="sparse", **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], list[list[object]]]:
    """Let dense and compiled take recorded seconds; each side runs once, and what it returned is kept."""
    seen: list[list[object]] = []

    def record(dense: float, compiled: float) -> list[list[object]]:
        def interleaved(sides: Any, **_: object) -> list[list[float]]:
            seen.append([side(0) for side in sides])
            return [[9.0, dense], [compiled, 9.0]]

        monkeypatch.setattr(comparison, "interleaved", interleaved)
        return seen

    return record


def test_the_report_has_both_figures_and_keeps_them(clock: Any) -> None:
    clock(0.0123, 0.0091)
    compiled = compiled_of(mlp())
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowerWarning)
        compiled.warmup(X)
    line = "measured: [4, 64]: dense 12.3 ms, compiled 9.1 ms, 1.35×"
    assert line in str(compiled.report)
    again = Report.from_dict(compiled.report.to_dict())
    assert line in str(again)
    assert again.model["measured"] == [
        {"call": "[4, 64]", "dense_ms": 12.3, "compiled_ms": 9.1, "runs_dense": False}
    ]
    page = WRITERS["html"](page_of([Source("report", compiled.report.to_dict())])).decode()
    assert "12.3" in page
    assert "1.35×" in page
    compiled.refresh()
    assert compiled.report.model["measured"] == []


def test_what_loses_is_said_once_with_what_to_do(clock: Any) -> None:
    clock(0.010, 0.01019)
    compiled = compiled_of(zoo.model_and_calls("bert")[0])
    with warnings.catch_warnings(record=True) as within:
        warnings.simplefilter("always")
        compiled.warmup(batch=[1, 2], seq=5)
    assert not [w for w in within if w.category is SlowerWarning], "2% are within what measuring again gives"
    clock(0.010, 0.0125)
    with pytest.warns(SlowerWarning) as said:
        compiled.warmup(batch=[1, 2], seq=[5, 6, 7])
    (warning,) = (w for w in said if w.category is SlowerWarning)
    text = str(warning.message)
    assert "batch 1 × seq 5: dense 10 ms, compiled 12.5 ms, 0.80×" in text
    assert "and 3 more. Call the model itself for these sizes" in text
    assert warning.filename == __file__
    shown = str(compiled.report)
    assert shown.count("measured: batch") == 4
    assert "measured: 2 other calls, 0.80× to 0.80×" in shown


def two_four() -> nn.Module:
    model = mlp()
    sf.prune(model, progress=False)
    return model


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the calls that the dense model serves."""
    shapes: list[tuple[int, ...]] = []
    run = comparison.DenseModel.__call__

    def seen(self: comparison.DenseModel, *args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(next(iter((*args, *kwargs.values()))).shape))
        return run(self, *args, **kwargs)

    monkeypatch.setattr(comparison.DenseModel, "__call__", seen)
    return shapes


def test_a_call_that_loses_twice_is_served_by_the_dense_model(clock: Any, spied: Any) -> None:
    measured = clock(0.010, 0.0125)
    model = two_four()
    compiled = sf.compile(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowerWarning)
        compiled.warmup(X)
    assert len(measured) == 2
    assert "measured: [4, 64]: dense 10 ms, compiled 12.5 ms, 0.80×, so the dense model serves it" in str(
        compiled.report
    )
    page = WRITERS["html"](page_of([Source("report", compiled.report.to_dict())])).decode()
    assert "[4, 64], served by the dense model" in page
    spied.clear()
    fresh = torch.randn(4, 64)
    result = compiled(fresh)
    assert torch.equal(result, model(fresh).detach())
    assert not result.requires_grad
    assert spied == [(4, 64)]
    compiled(torch.randn(5, 64))  # another size was not measured
    assert spied == [(4, 64)]
    with pytest.raises(sf.errors.InferenceOnlyError, match="requires gradients"):
        compiled(torch.randn(4, 64, requires_grad=True))


def test_one_loss_that_measuring_again_refutes_changes_nothing(monkeypatch: Any, spied: Any) -> None:
    times = iter([[[0.010], [0.0125]], [[0.010], [0.009]]])
    monkeypatch.setattr(comparison, "interleaved", lambda *_, **__: next(times))
    compiled = sf.compile(two_four())
    compiled.warmup(X)
    assert compiled.report.model["measured"] == [
        {"call": "[4, 64]", "dense_ms": 10.0, "compiled_ms": 9.0, "runs_dense": False}
    ]
    spied.clear()
    compiled(X)
    assert spied == []


def test_warming_up_again_measures_the_programs_again(clock: Any, spied: Any) -> None:
    clock(0.010, 0.0125)
    compiled = sf.compile(two_four())
    compiled.warmup(X)
    clock(0.010, 0.008)
    compiled.warmup(X)
    spied.clear()
    compiled(X)
    assert spied == []
    assert [one["runs_dense"] for one in compiled.report.model["measured"]] == [False]


def test_changed_weights_are_the_dense_models_too(clock: Any) -> None:
    clock(0.010, 0.0125)
    model = two_four()
    compiled = sf.compile(model)
    compiled.warmup(X)
    with torch.no_grad():
        model[0].weight.mul_(2)
    torch.testing.assert_close(compiled(X), model(X).detach())


@pytest.mark.parametrize(
    "options",
    [{"policy": "sparse"}, {"memory": "compressed"}, {"memory": "fast"}, {"prune": "magnitude"}],
    ids=lambda options: next(iter(options)),
)
def test_what_was_asked_for_is_only_warned_about(clock: Any, spied: Any, options: Any) -> None:
    clock(0.010, 0.0125)
    compiled = sf.compile(two_four(), **options)
    with pytest.warns(SlowerWarning, match="is slower than dense for"):
        compiled.warmup(X)
    spied.clear()
    compiled(X)
    assert spied == []


@pytest.mark.parametrize(
    ("model", "options", "args", "why"),
    [
        (mlp, {"inplace": True}, (X,), "its dense weights were released"),
        (Counting, {}, (X,), "it keeps state"),
        (Writing, {}, (X, torch.zeros(2)), "it writes its inputs"),
    ],
    ids=["inplace", "state", "writes"],
)
def test_a_dense_call_that_would_change_or_hold_something_is_left_out(
    monkeypatch: pytest.MonkeyPatch, model: Any, options: Any, args: Any, why: str
) -> None:
    monkeypatch.setattr(comparison, "DenseModel", lambda *_: pytest.fail("the dense model was made"))
    compiled = compiled_of(model(), **options)
    compiled.warmup(*args)
    assert compiled.report.model["measured"] == []
    assert f"not measured beside dense: {why}" in str(compiled.report)


def test_a_model_whose_forward_is_the_compiled_one_has_no_dense_one() -> None:
    model = mlp()
    compiled = compiled_of(model)
    model.forward = compiled.forward
    compiled.warmup(X)
    assert "forward is the compiled one" in compiled.report.model["not_measured"]


def test_a_dense_model_that_fails_fails_no_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(comparison.DenseModel, "__call__", fail)
    compiled = compiled_of(mlp())
    compiled.warmup(X)
    reason = "the dense model fails for [4, 64]: OutOfMemoryError: CUDA out of memory."
    assert compiled.report.model["not_measured"] == reason


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "compare", lambda *_: pytest.fail("it was compared"))
    compiled = compiled_of(mlp())
    compiled.warmup(X, compare=False)
    assert (compiled.report.model["measured"], compiled.report.model["not_measured"]) == ([], "")


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_the_dense_model_is_the_original_run_in_the_same_way(inner: Any, monkeypatch: Any) -> None:
    ways = []
    compile_ = torch.compile

    def spied(function: Any, *args: Any, **kwargs: Any) -> Any:
        ways.append(function)
        return compile_(function, *args, **kwargs)

    model = mlp()
    with torch.no_grad():
        expected = model(X)
    compiled = compiled_of(model, inner=inner)
    compiled(X)
    monkeypatch.setattr(torch, "compile", spied)
    dense = comparison.DenseModel(model, model.forward, X.device, compiled._options.execution)
    with torch.no_grad():
        torch.testing.assert_close(dense(X), expected)
    assert (model in ways) is (inner == "inductor")


def test_generation_is_compared_as_a_whole_over_the_models_own_forward(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, forwards = clock(0.02, 0.01), []
    model = zoo.text_model("llama")
    compiled = compiled_of(model)
    run, forward = comparison.DenseModel.generate, type(model).forward

    def generate(dense: comparison.DenseModel, *args: object, **kwargs: object) -> object:
        def counted(*args: object, **kwargs: object) -> object:
            forwards.append(1)
            return forward(model, *args, **kwargs)

        dense._generator._forward = counted
        return run(dense, *args, **kwargs)

    monkeypatch.setattr(comparison.DenseModel, "generate", generate)
    compiled.warmup(batch=1, seq=5)
    assert (len(seen), len(forwards)) == (1, 2 * 4)
    assert compiled.report.model["measured"][0]["call"] == "generate 4 tokens, batch 1 × seq 5"
