"""What inductor is asked for, by the program that it compiles."""

import os

import pytest
import torch
import torch._inductor.compile_fx
from torch import fx

from sparseflow.execution.inner import NO_FILE, WHOLE_ROWS, Inductor, choosing_anew
from sparseflow.runtime import prune_24
from sparseflow.runtime.packed import pack


def program(format_):
    """A layer between two operators, over a weight in a format."""
    weight = pack(prune_24(torch.randn(64, 128).bfloat16()), format_)

    def forward(x):
        rest = (None, None, weight.in_features, "none", [])
        return (weight.format.op(x * 2, *weight.tensors, *rest) + 1,)

    return fx.symbolic_trace(forward)


@pytest.mark.parametrize(("format_", "asked"), [("2:4-fp8", WHOLE_ROWS), ("2:4", {})])
def test_programs_that_quantise_rows_may_hold_whole_ones(monkeypatch, format_, asked):
    seen = []
    compile_fx = torch._inductor.compile_fx.compile_fx

    def spied(*args, config_patches=None, **rest):  # which calls itself, the patches applied
        seen.extend([] if config_patches is None else [config_patches])
        assert os.environ[NO_FILE] == "1"
        return compile_fx(*args, config_patches=config_patches, **rest)

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", spied)
    graph = program(format_)
    compiled, x = Inductor(graph, "default"), torch.randn(3, 128).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], graph(x)[0], rtol=2e-2, atol=2e-2)
    assert seen == [asked]
    assert NO_FILE not in os.environ


def test_a_variable_that_was_set_stays(monkeypatch):
    monkeypatch.setenv(NO_FILE, "0")
    with choosing_anew():
        assert os.environ[NO_FILE] == "1"
    assert os.environ[NO_FILE] == "0"
