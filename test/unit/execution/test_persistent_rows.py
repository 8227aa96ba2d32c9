"""What inductor is asked for by programs that quantise rows, and what happens where it fails."""

import os

import pytest
import torch
import torch._inductor.compile_fx
from torch import fx

from sparseflow.errors import SlowerWarning
from sparseflow.execution.inner import Inductor
from sparseflow.execution.persistent_rows import NO_FILE, WHOLE_ROWS, choosing_anew
from sparseflow.runtime import prune_24
from sparseflow.runtime.packed import pack


def program(format_):
    """A layer between two operators, over a weight in a format."""
    weight = pack(prune_24(torch.randn(64, 128).bfloat16()), format_)

    def forward(x):
        rest = (None, None, weight.in_features, "none", [])
        return (weight.format.op(x * 2, *weight.tensors, *rest) + 1,)

    return fx.symbolic_trace(forward)


@pytest.fixture
def asked(monkeypatch):
    """What compile_fx was asked for: options, and whether a choice among kernels lasts for a process."""
    seen = []
    compile_fx = torch._inductor.compile_fx.compile_fx

    def spied(*args, config_patches=None, **rest):  # which calls itself, the patches applied
        if config_patches is not None:
            seen.append((config_patches, os.environ.get(NO_FILE)))
        return compile_fx(*args, config_patches=config_patches, **rest)

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", spied)
    return seen


def run(graph):
    x = torch.randn(3, 128).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(Inductor(graph, "default")(x)[0], graph(x)[0], rtol=2e-2, atol=2e-2)


def test_programs_that_quantise_rows_may_hold_whole_ones(asked):
    run(program("2:4-fp8"))
    assert asked == [(WHOLE_ROWS, "1")]
    assert NO_FILE not in os.environ


def test_other_programs_are_compiled_as_ever(asked):
    run(program("2:4"))
    assert asked == [({}, None)]


def test_where_inductor_fails_it_does_without_and_says_so(monkeypatch):
    compile_fx = torch._inductor.compile_fx.compile_fx
    seen = []

    def failing(graph, *args, config_patches=None, **rest):
        seen.append(config_patches)
        if config_patches == WHOLE_ROWS:
            graph.graph.erase_node(next(iter(reversed(graph.graph.nodes))))  # changed before it fails
            raise TypeError("no lock\nand more")
        return compile_fx(graph, *args, config_patches=config_patches, **rest)

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", failing)
    with pytest.warns(SlowerWarning, match=r"failed to hold them: TypeError: no lock$"):
        run(program("2:4-fp8"))
    assert seen[:2] == [WHOLE_ROWS, {}]


def test_what_fails_either_way_is_raised_without_a_word(monkeypatch, recwarn):
    def failing(*_, **__):
        raise ValueError("not at all")

    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", failing)
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="not at all"):
        run(program("2:4-fp8"))
    assert not [warning for warning in recwarn if warning.category is SlowerWarning]


def test_a_variable_that_was_set_stays(monkeypatch):
    monkeypatch.setenv(NO_FILE, "0")
    with choosing_anew():
        assert os.environ[NO_FILE] == "1"
    assert os.environ[NO_FILE] == "0"
