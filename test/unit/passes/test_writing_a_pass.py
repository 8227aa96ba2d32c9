"""docs/design/writing-a-pass.md, followed to the letter: the pass that it shows runs wherever passes run."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from blocks import read_blocks
from torch import nn

import sparseflow as sf
from sparseflow import passes
from sparseflow.compiler.shapes import linear_shapes
from sparseflow.integrations.torch import backend, report
from sparseflow.passes.phases import PHASES
from sparseflow.passes.registry import PASSES
from sparseflow.tools.opt import main

PAGE = (Path(__file__).parents[3] / "docs" / "design" / "writing-a-pass.md").read_text()
REASON = "has 8192 weights, fewer than 1048576"


def lines():
    """What the page adds to tables, by the table: {"PASSES": {…}, "PHASES": {…}}."""
    steps = re.findall(r"\*\*[^*]*`(PASSES|PHASES)`.*?```text\n(.*?)```", PAGE, re.DOTALL)
    return {table: ast.literal_eval(f"{{{line.strip()}}}") for table, line in steps}


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """The steps of the page, done."""
    (file,) = re.findall(r"\*\*The file\*\*[^`]*`passes/(\w+\.py)`", PAGE)
    code = next(block.code for block in read_blocks(PAGE) if block.language == "python")
    (tmp_path / file).write_text(code)
    monkeypatch.setattr(passes, "__path__", [*passes.__path__, str(tmp_path)])
    for table, line in lines().items():
        for name, value in line.items():
            monkeypatch.setitem({"PASSES": PASSES, "PHASES": PHASES}[table], name, value)
    module = f"sparseflow.passes.{Path(file).stem}"
    importlib.invalidate_caches()
    yield
    sys.modules.pop(module, None)
    vars(passes).pop(Path(file).stem, None)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()


def compiled():
    return sf.compile(model(), (torch.randn(2, 64),), prune="magnitude", policy="sparse", progress=False)


def test_the_page_adds_one_pass_to_what_there_is():
    added = lines()
    assert sorted(added) == ["PASSES", "PHASES"]
    assert list(added["PASSES"]) == ["keep-small-dense"]
    ((phase, names),) = added["PHASES"].items()
    assert [name for name in names if name not in added["PASSES"]] == list(PHASES[phase])
    assert [name for name in names if name in added["PASSES"]] == ["keep-small-dense"]


@pytest.mark.usefixtures("followed")
def test_it_runs_in_compile():
    found, x = compiled(), torch.randn(3, 64)
    assert "keep-small-dense,match-sparse-linear" in found.pipeline()
    assert found.mlir("runtime").count(REASON) == 2
    assert all(layer.reason.endswith(REASON) for layer in found.report.layers)
    pruned = model()
    sf.prune(pruned, progress=False)  # what a layer runs as is no matter for what the model is
    torch.testing.assert_close(found(x), pruned(x).detach())


def test_without_it_the_same_model_is_sparse():
    assert REASON not in compiled().mlir("runtime")
    assert "keep-small-dense" not in compiled().pipeline()


@pytest.mark.usefixtures("followed")
def test_it_runs_in_the_backend_of_torch_compile():
    torch._dynamo.reset()
    options = {"prune": "magnitude", "policy": "sparse"}
    eager = model()
    run = torch.compile(eager, backend=backend.sparseflow, options=options)
    with torch.no_grad():
        run(torch.randn(3, 64))
    assert [layer.reason.endswith(REASON) for layer in report(eager).layers] == [True] * 2


@pytest.mark.usefixtures("followed")
def test_it_runs_where_shapes_are_looked_for():
    assert linear_shapes(model(), (torch.randn(2, 64),), None, ()) == {}


@pytest.mark.usefixtures("followed")
def test_it_runs_in_the_driver(tmp_path, capsys):
    path = tmp_path / "model.mlir"
    path.write_text(compiled().mlir("torch"))
    assert main([str(path), "--pipeline=runtime", "--mlir-timing"]) == 0
    out, err = capsys.readouterr()
    assert out.count(REASON) == 2
    assert "s  keep-small-dense" in err
    assert main([str(path), "--pipeline=canonical"]) == 0
    assert REASON not in capsys.readouterr().out
