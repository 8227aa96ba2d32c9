"""A kernel that SparseFlow doesn't ship, registered by this file alone: measured, dispatched and shown.

`docs/design/writing-a-kernel.md` explains each step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.cli.main import main
from sparseflow.errors import ArgumentError
from sparseflow.nn import SparseLinear
from sparseflow.runtime import Policy, compress_2_4, ops
from sparseflow.runtime.device_weight import DeviceWeight
from sparseflow.runtime.dispatch import Table, measure_cpu
from sparseflow.runtime.kernels import Choice, Kernel, Problem, find, registry
from sparseflow.validation import validate

MOST_ROWS = 8
CALLS: list[tuple[int, int]] = []


@torch.library.custom_op("sparseflow_test::product", mutates_args=())
def product(x: Tensor, values: Tensor, positions: Tensor, in_features: int, variant: int) -> Tensor:
    """Multiply by a packed weight, in one of two orders."""
    weight = ops.unpack_2_4(values, positions, in_features)
    return (weight @ x.mT).mT.contiguous() if variant else x @ weight.T


@dataclass(frozen=True)
class Toy(Kernel):
    """Takes few rows, in two variants."""

    def can_implement(self, problem: Problem) -> str | None:
        """Refuse many rows."""
        many = problem.m is not None and problem.m > MOST_ROWS
        return super().can_implement(problem) or (f"takes {MOST_ROWS} rows at most" if many else None)

    def candidates(self, problem: Problem, weight: object = None) -> tuple[Choice, ...]:
        """Both variants."""
        return Choice(self.name), Choice(self.name, 1)

    def product(
        self, x: Tensor, values: Tensor, positions: Tensor, in_features: int, choice: Choice
    ) -> Tensor:
        """By the operator above."""
        CALLS.append((x.numel() // in_features, choice.algorithm))
        y: Tensor = product(x.reshape(-1, in_features), values, positions, in_features, choice.algorithm)
        return y.view(*x.shape[:-1], -1)


TOY = Toy("toy", 64, "cpu", ("float32",), about="unpacks and multiplies", varied=True)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The kernel registered, and a clock by which it is the fastest where it may run, in its variant 1."""

    def stopwatch(sides, _):
        for side in sides:
            side(0)
        return lambda turn: [us * 1e-6 for us in (10, 20, 8, 5, 4)[: len(sides)]]

    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(measure_cpu, "Turns", stopwatch)
    registry.register(TOY)
    CALLS.clear()
    yield TOY
    registry.unregister("toy")


def packed(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = sf.prune_24(torch.randn(n, k, generator=generator))
    return weight, torch.randn(32, k, generator=generator)


@pytest.mark.usefixtures("toy")
def test_its_choices_are_parsed_and_written_like_others():
    choice = Choice.parse("toy@1")
    assert (choice, str(choice), choice.code) == (Choice("toy", 1), "toy@1", 64 | 1 << 8)
    policy = Policy.parse("1:toy@1,9:cpu")
    assert Policy.from_ints(policy.to_ints()) == policy
    assert find("toy").can_implement(Problem("float32", 8, 8, m=9)) == "takes 8 rows at most"
    assert find("toy").can_implement(Problem("float16", 8, 8)) == "toy multiplies float32, not float16"


@torch.no_grad()
def test_the_tuner_would_run_it_by_its_product(toy):
    weight, x = packed(24, 30)
    stored = DeviceWeight(*ops.pack_2_4(weight), 30)
    y = toy.run(x[:8], stored, Choice("toy", 1), torch.bfloat16)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, (x[:8] @ weight.T).bfloat16(), rtol=1e-2, atol=1e-2)


def test_without_it_nobody_knows_the_name():
    with pytest.raises(ArgumentError, match="unknown kernel 'toy'; known: dense, cpu, cusparselt, skinny"):
        Policy.parse("1:toy@1,9:cpu")


@pytest.mark.usefixtures("toy")
@torch.no_grad()
def test_a_sparse_layer_measures_it_and_runs_by_it_where_it_is_fastest():
    weight, x = packed(24, 30)
    bias = torch.randn(24)
    layer = SparseLinear(compress_2_4(weight), bias)
    assert sf.nn.prepare(layer) == 1
    assert layer._codes == Policy.parse("1:toy@1,9:cpu").to_ints()
    assert {ways for row in Table().layer("float32", 24, 30) for ways, _ in row.sparse_us} == {
        *("cpu", "toy@0", "toy@1")
    }
    CALLS.clear()
    for rows, runs in ((1, True), (8, True), (9, False), (32, False)):
        torch.testing.assert_close(layer(x[:rows]), x[:rows] @ weight.T + bias, rtol=1e-4, atol=1e-4)
        assert ([(rows, 1)] if runs else []) == CALLS
        CALLS.clear()
    assert layer(x[:0]).shape == (0, 24)


@pytest.mark.usefixtures("toy")
@torch.no_grad()
def test_a_table_without_its_times_is_measured_again_and_times_without_it_are_left_alone():
    registry.unregister("toy")
    weight, _ = packed(16, 16)
    layer = SparseLinear(compress_2_4(weight))
    sf.nn.prepare(layer)
    assert layer._codes == Policy.parse("1:cpu").to_ints()
    registry.register(TOY)
    sf.nn.prepare(layer)
    assert layer._codes == Policy.parse("1:toy@1,9:cpu").to_ints()
    registry.unregister("toy")
    sf.nn.prepare(layer)
    assert layer._codes == Policy.parse("1:cpu").to_ints()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


@pytest.mark.usefixtures("toy")
@torch.no_grad()
def test_a_compiled_model_runs_by_it_and_reports_it(tmp_path):
    torch.manual_seed(0)
    model = Model().eval()
    compiled = sf.compile(model, (torch.randn(4, 32),), prune="magnitude")
    sf.prune(model)
    for rows in (1, 8, 9, 32):
        CALLS.clear()
        x = torch.randn(rows, 32)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
        assert {m for m, _ in CALLS} == ({rows} if rows <= MOST_ROWS else set())
    for layer in compiled.report.layers:
        assert [(r.m_min, r.backend, r.speedup) for r in layer.ranges] == [
            (1, "toy@1", 2.5),
            (9, "cpu", 1.25),
        ]
        assert "M=1–8: toy@1 2.50×" in layer.reason
    compiled.save(tmp_path / "model")
    CALLS.clear()
    again = sf.load(tmp_path / "model")
    torch.testing.assert_close(again(x[:2]), model(x[:2]), rtol=1e-4, atol=1e-4)
    assert CALLS
    registry.unregister("toy")
    with pytest.raises(RuntimeError, match="names kernel 64, which this process has not registered"):
        again(x[:2])


@pytest.mark.usefixtures("toy")
def test_what_it_raises_reaches_the_caller(monkeypatch):
    def fails(*_):
        raise ValueError("out of toys")

    monkeypatch.setitem(ops.REGISTERED, 64, fails)
    weight, x = packed(8, 8)
    with pytest.raises(RuntimeError, match="sparseflow::linear: ValueError: out of toys"):
        sf.sparse_mm(x, compress_2_4(weight), policy=Policy.parse("1:toy@0"))


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("epilogue", ["none", "relu", "gelu_tanh", "silu", "gelu_gated"])
@torch.no_grad()
def test_it_need_not_know_how_a_layer_ends(epilogue):
    weight, x = packed(24, 16)
    bias, x = torch.randn(24), x[:6].view(2, 3, 16)
    residual = None if epilogue.endswith("_gated") else torch.randn(2, 3, 24)
    operands = (x, *ops.pack_2_4(weight), bias, residual, 16, epilogue)
    expected = ops.linear(*operands, [1, Choice("cpu").code])
    CALLS.clear()
    torch.testing.assert_close(ops.linear(*operands, [1, Choice("toy").code]), expected, rtol=1e-4, atol=1e-4)
    assert CALLS == [(6, 0)]


@pytest.mark.usefixtures("toy")
def test_info_and_validation_know_it(capsys):
    assert main(["info", "--json"]) == 0
    findings = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert findings["kernel toy"] == {
        "name": "kernel toy",
        "ok": True,
        "text": "unpacks and multiplies; float32",
    }
    found = validate([(4, 24, 32), (16, 24, 32)], [torch.float32], torch.device("cpu"))
    assert found.ok
    assert [check.runs.partition(" ")[0] for check in found.checks] == ["cpu", "toy@0", "cpu"]
