"""A warning names the line of the user's code that led to it, through whichever library."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from unit.checkpoints.tiny import llama

import sparseflow as sf
from sparseflow.errors import (
    DenseWarning,
    FormatWarning,
    QualityWarning,
    SparseFlowWarning,
    UnprunedWarning,
    UntestedVersionWarning,
)
from sparseflow.integrations.transformers import SparseFlowConfig, versions
from sparseflow.runtime.dispatch.cpu_table import DispatchTableWarning, Table
from sparseflow.support.user_warnings import warn


class Parts(nn.Module):
    """A model with a method that runs a layer outside of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu()

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def compiled(folder: Path) -> None:
    sf.compile(Parts().eval())(torch.randn(2, 32))


def inside_another(folder: Path) -> None:
    nn.Sequential(sf.compile(Parts().eval()), nn.ReLU())(torch.randn(2, 32))


def pruned_by_magnitude(folder: Path) -> None:
    sf.compile(Parts().eval(), prune="magnitude", policy="sparse")(torch.randn(2, 32))


def method(folder: Path) -> None:
    sf.compile(Parts().eval(), policy="sparse").first(torch.randn(2, 32))


def pruned(folder: Path) -> None:
    sf.prune(Parts().eval(), "wanda", [torch.randn(3, 32)], progress=False)


def sparsified(folder: Path) -> None:
    sf.nn.sparsify(Parts().bfloat16(), policy="sparse", format="2:4-fp8")


def loaded_by_transformers(folder: Path) -> None:
    llama().save_pretrained(folder)
    config = SparseFlowConfig(policy="sparse", format="2:4-fp8")
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)


def damaged_table(folder: Path) -> None:
    Table(folder=folder).path.write_text(json.dumps([]))
    Table(folder=folder)


CALLS: list[tuple[Callable[[Path], None], type[Warning]]] = [
    (compiled, UnprunedWarning),
    (inside_another, UnprunedWarning),
    (pruned_by_magnitude, QualityWarning),
    (method, DenseWarning),
    (pruned, QualityWarning),
    (sparsified, FormatWarning),
    (loaded_by_transformers, FormatWarning),
    (damaged_table, DispatchTableWarning),
]


@pytest.mark.parametrize(("call", "category"), CALLS, ids=lambda value: value.__name__)
@torch.no_grad()
def test_the_line_is_the_last_of_the_call(
    call: Callable[[Path], None], category: type[Warning], tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call(tmp_path)
    code = call.__code__
    last = max(line for _, _, line in code.co_lines() if line is not None)
    places = [(w.filename, w.lineno) for w in found if w.category is category]
    assert places == [(__file__, last)]


@torch.no_grad()
def test_a_loaded_model_warns_at_the_line_that_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = sf.compile(llama(), policy="sparse")
    compiled(torch.tensor([[3, 1, 4]]))
    compiled.save(tmp_path / "artifact")
    monkeypatch.setattr(versions, "supported", lambda: "<5.0")
    versions.warn_if_untested.cache_clear()
    with pytest.warns(UntestedVersionWarning, match="newer") as found:
        assert sf.load(tmp_path / "artifact").config is not None
    assert [w.filename for w in found if w.category is UntestedVersionWarning] == [__file__]


def test_the_default_filter_shows_a_line_once_and_other_lines_too() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default", SparseFlowWarning)
        for _ in range(3):
            warn("a loop", SparseFlowWarning)
        warn("a loop", SparseFlowWarning)
    assert len(found) == 2


@pytest.mark.parametrize("name", [None, "torch.fx.graph_module", "transformers", "contextlib"])
def test_generated_code_and_libraries_are_passed_over(name: str | None) -> None:
    scope: dict[str, Any] = {"warn": warn, "kind": SparseFlowWarning}
    if name is not None:
        scope["__name__"] = name
    exec("def run():\n    warn('hello', kind)", scope)
    with pytest.warns(SparseFlowWarning) as found:
        scope["run"]()
    assert [w.filename for w in found] == [__file__]


def test_a_package_of_a_similar_name_is_the_users() -> None:
    scope = {"__name__": "torchlike", "warn": warn, "kind": SparseFlowWarning}
    with pytest.warns(SparseFlowWarning) as found:
        exec(compile("warn('hello', kind)", "theirs.py", "exec"), scope)
    assert [w.filename for w in found] == ["theirs.py"]
