"""Large dense layers of one row, by `sparseflow::dense_rows` in programs for a CPU."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import fx, nn
from torch.nn.functional import linear

import sparseflow as sf
from sparseflow.execution import streaming as streams


def program(**weights: torch.Tensor) -> fx.GraphModule:
    """Layers over one x, by the names of their weights."""
    root, graph = nn.Module(), fx.Graph()
    x = graph.placeholder("x")
    for name, weight in weights.items():
        root.register_buffer(name, weight)
    found = [graph.call_function(torch.ops.aten.linear.default, (x, graph.get_attr(n))) for n in weights]
    graph.output(tuple(found))
    return fx.GraphModule(root, graph)


def test_large_layers_stream_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LARGE", 600)
    module = program(large=torch.randn(20, 32), small=torch.randn(18, 32))
    made = streams.streaming(module)
    targets = [node.target for node in made.graph.nodes if node.op == "call_function"]
    assert targets == [streams.one_row_linear, torch.ops.aten.linear.default]
    assert made.large.data_ptr() == module.large.data_ptr()
    assert streams.one_row_linear not in [node.target for node in module.graph.nodes]  # what is saved
    for rows in (1, 3):
        x = torch.randn(1, rows, 32)
        torch.testing.assert_close(made(x), (linear(x, module.large), linear(x, module.small)))


def test_a_program_without_large_layers_is_itself() -> None:
    module = program(small=torch.randn(18, 32))
    assert streams.streaming(module) is module


def test_the_head_of_a_prompt_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(x.shape)
        return linear(x, weight, bias)

    torch.manual_seed(0)
    model = zoo.text_model("llama", zoo.fewest("llama"))
    head = model.lm_head.weight
    monkeypatch.setattr(streams, "LARGE", head.numel())
    monkeypatch.setattr(streams, "dense_rows", counted)
    compiled = sf.compile(model, prune="magnitude", policy="sparse", inner="eager")
    ids = zoo.tokens(1, 6)
    found = compiled.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
    reference = zoo.pruned_as(model, compiled.report)
    assert torch.equal(found, reference.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0))
    assert seen == [(1, 1, head.shape[1])]
