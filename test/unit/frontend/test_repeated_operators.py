"""What a trace reuses gives the program that tracing each operator anew gives."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from unit.checkpoints.tiny import llama

from sparseflow.execution.generation import whole_cache, with_cache
from sparseflow.frontend import capture, flat_module, repeated_operators
from sparseflow.frontend.locations import module_path, source_line


class Layers(nn.Module):
    """Some layers that differ in a number, with views of an input, writes and the sizes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])

    def forward(self, x: Tensor, table: Tensor) -> tuple[Tensor, ...]:
        """Return what the layers give, a view of an input, and a sum over their rows."""
        rows = []
        for i, layer in enumerate(self.layers):
            x = layer(x) * (i + 1) + table[:, : x.shape[1]]
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
            y = x.clone()
            y.add_(1).mul_(x.shape[1])
            y.unsqueeze_(0)
            rows.append(y.squeeze(0).sum(-1))
            x = x.to(torch.float32) + y.reshape(x.shape)
        return x, table[:, 1:], torch.stack(rows)


class Mixed(nn.Module):
    """Operators that become others: under autocast, in vmap, and of constants."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the same products in each of those."""
        plain = [x @ x.transpose(0, 1) for _ in range(2)]
        with torch.autocast("cpu", torch.bfloat16):
            cast = [x @ x.transpose(0, 1) for _ in range(2)]
        each = torch.vmap(lambda row: row * 2 + row)(x)
        number = torch.tensor(3.0)
        return *plain, *cast, each, x * number, x * number, torch.rand_like(x) * 0, torch.rand_like(x) * 0


class Strided(nn.Module):
    """Returns what `contiguous` makes of an input: itself or a copy."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second of two equal views of what it gives, and something of both."""
        first, second = x.contiguous()[:, :1], x.contiguous()[:, :1]
        return second, first + second


def text(program) -> list[tuple[object, ...]]:
    """Describe each node: its target, operands, place in the model, sizes, strides and dtype."""
    found: list[tuple[object, ...]] = []
    order: dict[torch.fx.Node, int] = {}
    for node in program.exported.graph.nodes:
        order[node] = len(order)
        args = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: f"%{order[n]}")
        value = node.meta.get("val")
        kind = (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value
        found.append((node.op, str(node.target), str(args), str(kind), source_line(node), module_path(node)))
    return found


def both(model, monkeypatch, *args, **kwargs):
    """Capture with reuse and without; return both programs and how often something was reused."""
    used = []
    again = repeated_operators._Repeated._again

    def counted(self, *given):
        used.append(given)
        return again(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(flat_module, "repeated_operators", lambda caller: contextlib.nullcontext())
        anew = capture(model, args, kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(repeated_operators._Repeated, "_again", counted)
        reused = capture(model, args, kwargs)
    return reused, anew, len(used)


def without_places(lines: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [line[:-2] for line in lines]


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_llama_over_a_static_cache(tokens, monkeypatch):
    model = llama()
    cache = whole_cache(model, 16, 1)
    call = {"input_ids": torch.randint(3, 96, (1, tokens)), **with_cache(model, cache), "return_dict": True}
    reused, anew, count = both(model, monkeypatch, **call)
    assert count > 30
    assert without_places(text(reused)) == without_places(text(anew))
    assert [line[-1] for line in text(reused)] == [line[-1] for line in text(anew)]
    assert [s.kind for s in reused.exported.graph_signature.output_specs] == [
        s.kind for s in anew.exported.graph_signature.output_specs
    ]
    assert str(reused.exported.range_constraints) == str(anew.exported.range_constraints)


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1), (1, 4), (3, 1)])
def test_numbers_writes_views_and_sizes(sizes, monkeypatch):
    model = Layers().eval()
    x, table = torch.randn(*sizes, 8), torch.randn(1, 7, 8)
    reused, anew, count = both(model, monkeypatch, x, table)
    assert count > 10
    assert without_places(text(reused)) == without_places(text(anew))
    with torch.no_grad():
        for found, expected in zip(reused.exported.module()(x, table), model(x, table), strict=True):
            torch.testing.assert_close(found, expected)


def test_source_lines_are_those_of_the_operators():
    captured = capture(Layers().eval(), (torch.randn(2, 3, 8), torch.randn(1, 7, 8)))
    products = [n for n in captured.exported.graph.nodes if n.target is torch.ops.aten.linear.default]
    # Layers' own code, not torch's `Linear.forward`.
    assert {source_line(node)[0].rpartition("/")[2] for node in products} == {__file__.rpartition("/")[2]}
    assert [module_path(node) for node in products] == [f"layers.{i}" for i in range(3)]


def test_autocast_transforms_constants_and_random_numbers(monkeypatch):
    model, x = Mixed().eval(), torch.randn(3, 5)
    reused, anew, _ = both(model, monkeypatch, x)
    assert without_places(text(reused)) == without_places(text(anew))
    for found, expected in zip(reused.exported.module()(x), model(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_what_contiguous_returns_still_shows_that_layouts_matter(monkeypatch):
    reused, anew, count = both(Strided().eval(), monkeypatch, torch.randn(4, 3))
    assert count
    assert without_places(text(reused)) == without_places(text(anew))
    assert reused.tensors == anew.tensors
    assert reused.tensors != capture(nn.Identity().eval(), (torch.randn(4, 3),)).tensors
