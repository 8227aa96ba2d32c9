"""Memory modes: whether a dense copy is kept, and that results don't depend on it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch import Measurement, choose
from sparseflow.runtime.packed import PackedWeight


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(64, 128)
        self.winner = nn.Linear(128, 64, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.winner(torch.relu(self.mixed(x)))


def row(n: int, k: int, m: int, dense: float, cpu: float) -> Measurement:
    return Measurement("float32", n, k, m, dense, 2 * dense, (("cpu", cpu),), n, 9, False)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements by which one layer wins only with few rows and the other always."""
    rows = {
        (128, 64): [row(128, 64, 1, 10.0, 5.0), row(128, 64, 8, 10.0, 18.0)],
        (64, 128): [row(64, 128, 1, 10.0, 5.0), row(64, 128, 8, 10.0, 5.0)],
    }

    def calibrate(shapes, dtype, *, progress, memory):
        return {shape: choose(rows[shape], memory) for shape in shapes}

    monkeypatch.setattr("sparseflow.runtime.dispatch.calibration.calibrate", calibrate)


def packed_weights(compiled: sf.CompiledModel) -> dict[int, PackedWeight]:
    found = [m for m in compiled.graph().modules() if isinstance(m, PackedWeight)]
    return {weight.out_features: weight for weight in found}


@pytest.mark.usefixtures("recorded")
def test_fast_keeps_a_dense_copy_only_where_some_m_runs_densely() -> None:
    model = Pair().eval()
    compiled = sf.compile(model, (torch.randn(4, 64),), prune="magnitude", memory="fast", inplace=True)
    weights = packed_weights(compiled)
    assert torch.equal(weights[128].dense, weights[128].unpack())
    assert weights[64].dense is None
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert layers["mixed"].bytes == weights[128].nbytes > layers["mixed"].bytes_dense
    assert layers["winner"].bytes == weights[64].nbytes < layers["winner"].bytes_dense
    assert [(r.m_min, r.backend) for r in layers["mixed"].ranges] == [(1, "cpu"), (4, "dense")]
    assert layers["mixed"].ranges[1].speedup == 1.0
    assert compiled.report.model["memory"] == "fast"


@pytest.mark.usefixtures("recorded")
def test_compressed_keeps_none_and_reports_what_that_costs() -> None:
    compiled = sf.compile(Pair().eval(), (torch.randn(4, 64),), prune="magnitude")
    assert all(weight.dense is None for weight in packed_weights(compiled).values())
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert layers["mixed"].ranges[-1].speedup < 1.0


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("batch", [0, 1, 2, 4, 9])
def test_both_modes_compute_the_same(batch: int) -> None:
    model, x = Pair().eval(), torch.randn(batch, 64)
    fast, compressed = (
        sf.compile(model, prune="magnitude", memory=memory)(x) for memory in ("fast", "compressed")
    )
    torch.testing.assert_close(fast, compressed, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("recorded")
def test_a_later_program_shares_the_dense_copy() -> None:
    compiled = sf.compile(Pair().eval(), prune="magnitude", memory="fast")
    for shape in ((4, 64), (64,)):
        compiled(torch.randn(shape))
    kept = [dict(compiled.graph(program=i).named_modules()) for i in range(2)]
    copies = [
        {m.dense.data_ptr() for m in g.values() if isinstance(m, PackedWeight) and m.out_features == 128}
        for g in kept
    ]
    assert copies[0] == copies[1]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ArgumentError, match="memory must be one of 'compressed', 'fast'"):
        sf.compile(Pair().eval(), prune="magnitude", memory="small")  # type: ignore[arg-type]
