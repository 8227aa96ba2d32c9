"""What runs the lowered graph: eager or inductor, with what modes, counted how."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 64, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.down(torch.relu(self.up(x)))) * 2


class Counting(Mlp):
    """Counts in a buffer, and writes its second input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        state[:, 0] += self.calls
        return super().forward(x) + state.sum()


def costs(compiled: sf.CompiledModel) -> dict:
    return compiled.report.model["compilations"]


def test_sizes_after_the_first_are_compiled_once_for_all() -> None:
    model = Mlp().eval()
    eager = sf.compile(model, prune="magnitude", policy="sparse")
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner="inductor")
    counts = []
    for batch in (6, 9, 12, 5):
        x = torch.randn(batch, 64)
        torch.testing.assert_close(compiled(x), eager(x), rtol=1e-5, atol=1e-5)
        counts.append(costs(compiled)["inductor"]["compiles"])
    assert counts == [1, 2, 2, 2]
    assert costs(compiled)["inductor"]["recompiles"] == 1
    assert costs(compiled)["inductor"]["seconds"] > 0
    assert costs(eager)["inductor"] == {"compiles": 0, "recompiles": 0, "seconds": 0}


def test_more_variants_than_torch_allows_are_compiled_all_the_same() -> None:
    model = Mlp().eval()
    compiled, eager = (
        sf.compile(model, prune="magnitude", policy="sparse", inner=inner) for inner in ("inductor", "eager")
    )
    with torch._dynamo.config.patch(recompile_limit=1):
        for batch in (6, 9):
            x = torch.randn(batch, 64)
            torch.testing.assert_close(compiled(x), eager(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_buffers_and_inputs_are_written_in_place_by_the_graph_itself(inner: str) -> None:
    model = Counting().eval()
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner=inner)
    state = torch.zeros(3, 2)
    for _ in range(3):
        compiled(torch.randn(3, 64), state)
    assert model.calls == 3
    assert torch.equal(state, torch.tensor([[6.0, 0.0]] * 3))
    targets = [node.target for node in compiled.graph().graph.nodes]
    assert targets.count(torch.ops.aten.copy_.default) == 2


def test_no_graph_breaks_under_dynamo() -> None:
    compiled = sf.compile(Mlp().eval(), (torch.randn(4, 64),), prune="magnitude", policy="sparse")
    explained = torch._dynamo.explain(compiled.graph())(torch.randn(4, 64))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_cuda_graphs_without_a_gpu_are_refused_in_the_report() -> None:
    compiled = sf.compile(
        Mlp().eval(), (torch.randn(4, 64),), prune="magnitude", policy="sparse", mode="reduce-overhead"
    )
    assert compiled(torch.randn(4, 64)).shape == (4, 64)
    assert costs(compiled)["cuda_graphs"]["without"] == ["the model is on the cpu"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "fast"}, "mode"),
        ({"mode": "max-autotune", "inner": "eager"}, "only inductor tunes"),
        ({"tune": True}, "tune must be one of 'quick', 'full', 'off'"),
    ],
)
def test_wrong_modes_are_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        sf.compile(Mlp().eval(), **options)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (Mlp, {"batch": 4}, "pass example inputs"),
        (Mlp, {"x": torch.ones(2, 64), "batch": 2}, "not both"),
        (functools.partial(zoo.text_model, "llama"), {"batch": 2}, "seq is missing"),
        (functools.partial(zoo.text_model, "llama"), {"seq": 0}, "seq must be a positive int"),
        (functools.partial(zoo.text_model, "llama"), {"seq": 4, "batch": [1, 2.5]}, "batch must be"),
    ],
)
def test_warmup_says_what_it_needs(model: Callable[[], nn.Module], options: dict, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        sf.compile(model().eval(), prune="magnitude").warmup(**options)


@pytest.mark.parametrize(
    ("name", "inputs"), [("bert", ("input_ids", "attention_mask")), ("vit", ("pixel_values",))]
)
def test_warmup_of_encoders_leaves_nothing_to_capture(name: str, inputs: tuple[str, ...]) -> None:
    model, _ = zoo.model_and_calls(name)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    compiled.warmup(batch=[2, 3], seq=None if name == "vit" else 5, inputs=inputs)
    before = costs(compiled)
    example = {"input_ids": zoo.tokens(3, 5), "attention_mask": zoo.tokens(3, 5).clamp(max=1)}
    compiled(**(example if name == "bert" else {"pixel_values": torch.randn(3, 3, 16, 16)}))
    assert costs(compiled) == before


def test_warmup_with_example_inputs_leaves_nothing_to_compile() -> None:
    compiled = sf.compile(Mlp().eval(), prune="magnitude", policy="sparse", inner="inductor")
    compiled.warmup(torch.randn(4, 64))
    before = costs(compiled)["inductor"]
    compiled(torch.randn(4, 64))
    assert costs(compiled)["inductor"] == before
