"""Early launches: only where every kernel reads something that it waits for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseflow.execution import early_launches
from sparseflow.execution.by_inductor import compile_by_inductor


def verdict(function, *inputs):
    """Compile a function by inductor under the options, and return what was found and whether it is early."""
    found = []

    class Looking:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, graph):
            found.append(early_launches.why_not_early(graph))
            self.inner(graph)
            found.append(torch._inductor.config.triton.enable_pdl)

        def uuid(self):
            return None

    options = early_launches.early_launches()
    options[early_launches.LAST_PASS] = Looking(options[early_launches.LAST_PASS])

    def backend(graph, given):
        return compile_by_inductor(graph, given, options)

    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs), function(*inputs))
    return found


X = torch.linspace(-1, 1, 32).reshape(4, 8)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x + torch.arange(8),
        lambda x: torch.where(x > 0, x, torch.full((4, 8), -1.0)),
        lambda x: x * torch.arange(4, dtype=torch.float32).sin().view(4, 1),
    ],
    ids=["no constants", "a range", "a full tensor", "a computed one, seen otherwise"],
)
def test_what_reads_something_is_launched_early(function):
    assert verdict(function, X) == ["", True]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * 2, torch.zeros(4)),
        lambda x: x @ torch.ones(8, 3),
        lambda x: x @ (torch.arange(24, dtype=torch.float32).view(8, 3) / 24).sin(),
        lambda x: (x * 2, torch.arange(6).cumsum(0)),
    ],
    ids=["an output", "read by a product", "computed, then read by a product", "read by a scan"],
)
def test_a_program_that_may_read_nothing_is_not(function):
    before = torch._inductor.config.triton.enable_pdl
    why, early = verdict(function, X)
    assert "reads" in why
    assert not early
    assert torch._inductor.config.triton.enable_pdl == before, "other programs are compiled as before"


def test_memory_without_values_is_no_kernel():
    class Model(nn.Module):
        def forward(self, x):
            return x.new_empty(3).zero_() + x[0, :3]

    assert verdict(Model(), X)[0] == ""


def test_programs_of_another_version_have_another_key(monkeypatch, tmp_path):
    before = early_launches.version()
    other = tmp_path / "early_launches.py"
    other.write_text("something else")
    monkeypatch.setattr(early_launches, "__file__", str(other))
    assert early_launches.version() != before
