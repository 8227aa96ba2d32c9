"""Memory modes: whether a dense copy is kept, and that results don't depend on it."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.runtime.dispatch import Measurement, choose
from sparseflow.runtime.packed import PackedWeight
from sparseflow.runtime.products import copies
from sparseflow.support.arguments import MEMORY_MODES, Memory
from sparseflow.tools.opt import main


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

    def calibrate(shapes, dtype, *, progress, memory, format):
        return {shape: choose(rows[shape], memory) for shape in shapes}

    monkeypatch.setattr("sparseflow.runtime.dispatch.fill_cpu_table.calibrate", calibrate)


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
    assert layers["mixed"].measured == ((1, 2.0), (8, 1.0))
    assert compiled.report.model["memory"] == "fast"


@pytest.mark.usefixtures("recorded")
def test_compressed_keeps_none_and_reports_what_that_costs() -> None:
    compiled = sf.compile(Pair().eval(), (torch.randn(4, 64),), prune="magnitude", memory="compressed")
    assert all(weight.dense is None for weight in packed_weights(compiled).values())
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert layers["mixed"].ranges[-1].speedup < 1.0


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 9])
def test_all_modes_compute_the_same(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Pair().eval(), torch.randn(batch, 64)
    pruned = copy.deepcopy(model)
    sf.prune(pruned)
    with torch.no_grad():
        expected = pruned(x)
    found = [sf.compile(model, prune="magnitude", memory=memory)(x) for memory in MEMORY_MODES]
    monkeypatch.setattr(copies, "free_bytes", lambda _: 0)
    found.append(sf.compile(model, prune="magnitude")(x))
    for one in found:
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("inplace", [False, True])
def test_auto_keeps_a_copy_where_some_m_would_lose_and_counts_its_bytes(inplace: bool) -> None:
    compiled = sf.compile(Pair().eval(), (torch.randn(4, 64),), prune="magnitude", inplace=inplace)
    weights = packed_weights(compiled)
    assert torch.equal(weights[128].dense, weights[128].unpack())
    assert weights[64].dense is None
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert layers["mixed"].bytes == weights[128].nbytes > layers["mixed"].bytes_dense
    assert layers["winner"].bytes == weights[64].nbytes < layers["winner"].bytes_dense
    assert "a dense copy is kept: packed alone it would run at 0.56× at M=8" in layers["mixed"].reason
    assert "copy" not in layers["winner"].reason
    assert min(entry.speedup for layer in layers.values() for entry in layer.ranges) == 1.0
    assert compiled.report.model["bytes"] == sum(weight.nbytes for weight in weights.values())
    assert compiled.report.model["memory"] == "auto"


@pytest.mark.usefixtures("recorded")
def test_without_room_for_its_copy_a_layer_stays_dense_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "free_bytes", lambda _: 2 * 128 * 64 * 4 - 2)
    compiled = sf.compile(Pair().eval(), (torch.randn(4, 64),), prune="magnitude")
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert (layers["mixed"].decision, layers["winner"].decision) == ("dense", "sparse")
    assert layers["mixed"].bytes == layers["mixed"].bytes_dense
    for part in ("packed alone it runs at 0.56× at M=8", "0.0 MB, don't fit the 0.0 MB that are left"):
        assert part in layers["mixed"].reason


@pytest.mark.usefixtures("recorded")
def test_a_later_program_runs_a_layer_as_the_first_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = sf.compile(Pair().eval(), prune="magnitude")
    compiled(torch.randn(4, 64))
    monkeypatch.setattr(copies, "free_bytes", lambda _: 0)
    compiled(torch.randn(64))
    assert len(compiled.report.model["captures"]) == 2
    assert all("keeps_dense" in compiled.mlir(program=program) for program in range(2))
    assert {layer.decision for layer in compiled.report.layers} == {"sparse"}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_what_is_kept_is_in_the_mlir_in_the_passes_and_in_an_artifact(tmp_path: Path, memory: Memory) -> None:
    x = torch.randn(4, 64)
    compiled = sf.compile(Pair().eval(), (x,), prune="magnitude", memory=memory)
    kept = memory != "compressed"
    assert ("keeps_dense" in compiled.mlir()) is kept
    assert ("sparse_gemm.pruned_weight" in compiled.mlir("runtime")) is kept
    source, made = tmp_path / "torch.mlir", tmp_path / "runtime.mlir"
    source.write_text(compiled.mlir("torch"))
    assert main([str(source), f"--pass-pipeline={compiled.pipeline()}", "-o", str(made)]) == 0
    assert made.read_text().rstrip() == compiled.mlir("runtime").rstrip()
    compiled.save(tmp_path / "saved")
    table = tmp_path / "saved" / "policies.json"
    text = f"--pipeline=runtime{{policies={shlex.quote(str(table))}}}"
    assert main([str(source), text, "-o", str(made)]) == 0
    assert ("sparse_gemm.pruned_weight" in made.read_text()) is kept
    loaded = sf.load(tmp_path / "saved")
    for rows in (1, 3, 4, 9):
        x = torch.randn(rows, 64)
        assert torch.equal(loaded(x), compiled(x))
    weights = {w.out_features: w for w in loaded.graph().modules() if isinstance(w, PackedWeight)}
    assert (weights[128].dense is not None) is kept
    assert weights[64].dense is None


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
    with pytest.raises(ArgumentError, match="memory must be one of 'auto', 'compressed', 'fast'"):
        sf.compile(Pair().eval(), prune="magnitude", memory="small")  # type: ignore[arg-type]
