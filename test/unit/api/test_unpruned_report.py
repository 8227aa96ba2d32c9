"""A model that nothing prunes is told so first: how many layers, by what call, and for which gain."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.reports.report import Report
from sparseflow.reports.text import ROWS
from sparseflow.reports.unpruned import CALL
from sparseflow.runtime.dispatch import MEASURED_M, Measurement, Table
from sparseflow.runtime.gpu import library
from sparseflow.runtime.products.known import known_policies
from sparseflow.runtime.tuning.gpu_identity import GpuMachine

pytestmark = pytest.mark.filterwarnings("ignore::sparseflow.errors.UnprunedWarning")
X = torch.randn(6, 64)


class Attention(nn.Module):
    """Three projections of one input, which compiling merges, and what follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(64, 32)
        self.out = nn.Linear(64, 48)
        self.head = nn.Linear(48, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.cat([torch.relu(self.k(x)), torch.sigmoid(self.v(x))], -1)
        return self.head(self.out(self.q(x) * mixed))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path / "cache"))


def measured(shape: tuple[int, int], speedup: float) -> None:
    """Put a layer into this machine's table: sparse is so much faster than dense for every M."""
    table = Table()
    table.add(
        Measurement("float32", *shape, m, 100.0, 150.0, (("cpu", 100.0 / speedup),), shape[0], 5, False)
        for m in MEASURED_M
    )
    assert table.save()


def compiled(model: nn.Module, **options: object) -> sf.CompiledModel:
    found = sf.compile(model.eval(), skip=("head",), progress=False, **options)
    with torch.no_grad():
        found(X)
    return found


def test_the_first_line_says_what_prunes_and_what_tables_promise(tmp_path):
    measured((128, 64), 2.0)  # the three projections as one
    measured((48, 64), 1.25)
    report = compiled(Attention()).report
    size, now = 128 * 64 + 48 * 64, 128 * 64 / 2.0 + 48 * 64 / 1.25
    expected = {str(m): pytest.approx(size / now) for m in ROWS}
    assert report.model["if_pruned"] == {"layers": 4, "two_four": 0, "known": 4, "expected": expected}
    gains = ", ".join(f"M={m} {size / now:.2f}×" for m in ROWS)
    line = (
        f"no weight of Attention is 2:4, so its 4 layers that can be pruned run densely: {CALL} prunes; "
        f"expected after pruning: {gains}"
    )
    assert report.table(width=1000).splitlines()[0] == line
    assert str(report).startswith(line[:60])
    report.to_markdown(tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().splitlines()[1].strip() == line
    report.to_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.index("no weight of Attention is 2:4") < page.index("layers run sparse")


def test_the_promise_is_kept_after_pruning():
    measured((128, 64), 2.0)
    measured((48, 64), 0.5)
    promised = compiled(Attention()).report.model["if_pruned"]["expected"]["16"]
    model = Attention()
    sf.prune(model, skip=("head",), progress=False)
    report = compiled(model).report
    assert {layer.name: layer.decision for layer in report.layers}["out"] == "dense"
    assert "if_pruned" not in report.model or not report.model["if_pruned"]
    pruned = [layer for layer in report.layers if layer.name != "head"]
    ranges = {layer.name: layer.ranges[0].speedup for layer in pruned if layer.ranges}
    size = sum(layer.N * layer.K for layer in pruned)
    now = sum(layer.N * layer.K / ranges.get(layer.name, 1.0) for layer in pruned)
    assert promised == pytest.approx(size / now)


def test_what_no_table_has_is_not_promised():
    report = compiled(Attention()).report
    assert report.model["if_pruned"] == {"layers": 4, "two_four": 0, "known": 0, "expected": {}}
    assert "what that gains was not measured on this machine yet" in report.table(width=1000)
    assert len(Table()) == 0, "a report measures nothing"
    measured((48, 64), 1.5)
    report = compiled(Attention()).report
    assert report.model["if_pruned"]["known"] == 1
    first = report.table(width=1000).splitlines()[0]
    assert first.endswith("M=2048 1.50× over 1 of these layers; no table of this machine has the others")


def test_a_model_that_is_2_4_in_part_says_how_many_layers_are():
    model = Attention()
    sf.prune(model, skip=("head", "out"), progress=False)
    first = compiled(model, policy="sparse").report.table(width=1000).splitlines()[0]
    assert first == "3 of the 4 layers of Attention that can be pruned are 2:4; the other 1 runs densely"


def test_nothing_is_said_where_nothing_is_left_to_prune():
    pruned = Attention()
    sf.prune(pruned, skip=("head",), progress=False)
    relu = sf.compile(nn.ReLU().eval())
    relu(X)
    reports = [
        compiled(pruned, policy="sparse").report,
        compiled(Attention(), prune="magnitude", policy="sparse").report,
        relu.report,
    ]
    assert [report.model["if_pruned"] for report in reports] == [{}, {}, {}]
    assert [str(report).partition(":")[0] for report in reports] == ["Attention", "Attention", "ReLU"]


def test_several_programs_count_a_layer_once():
    model = compiled(Attention())
    with torch.no_grad():
        model(X[0])
    assert model.report.model["programs"] == 2
    assert model.report.model["if_pruned"]["layers"] == 4


def test_a_saved_report_still_says_it(tmp_path):
    compiled(Attention()).save(tmp_path / "artifact")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = Report.from_dict(sf.load(tmp_path / "artifact").report)
    assert str(report).startswith("no weight of Attention is 2:4")


def test_the_backend_of_torch_compile_says_it_too():
    model = Attention().eval()
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend="sparseflow", options={"skip": ("head",)})(X)
    assert sf.integrations.torch.report(model).model["if_pruned"]["layers"] == 4


def test_a_gpu_is_asked_for_what_its_tables_have(monkeypatch):
    here = GpuMachine("NVIDIA H200", "9.0", "580.95.05", "0.10.0", "2.11.0+cu130")
    monkeypatch.setattr(library, "unusable", lambda device=None: None)
    monkeypatch.setattr(GpuMachine, "here", lambda device=None: here)
    shapes = [(6144, 4096), (6208, 4096)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = known_policies(
            shapes, torch.bfloat16, torch.device("cuda", 0), memory="compressed", format="2:4"
        )
    assert list(found) == [(6144, 4096)]
    assert found[6144, 4096].pays
