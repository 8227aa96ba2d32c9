"""The MLIR that the frontend makes: weights by reference, locations, names, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import cast_symbool_to_symint_guardless
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.errors import FrontendError
from sparseflow.frontend import ResultKind, capture, import_program


def context():
    result = ir.Context()
    dialect.load(result)
    return result


def imported(model, *args, **kwargs):
    return import_program(capture(model.eval(), args, kwargs), context())


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(64, 256)
        self.down = nn.Linear(256, 64, bias=False)
        self.register_buffer("scale", torch.ones(64))

    def forward(self, x):
        return self.down(torch.relu(self.up(x))) * self.scale


def test_weights_are_references_and_no_bytes_are_copied():
    model = Mlp()
    program = imported(model, torch.randn(2, 64))
    assert set(program.weights) == {"up.weight", "up.bias", "down.weight", "scale"}
    assert program.weights["up.weight"] is model.up.weight
    assert program.weights["scale"] is model.scale
    assert not program.weights.constants
    text = str(program.module)
    assert "dense_resource" not in text
    assert len(text) < 4000


def test_linear_layers_survive():
    text = str(imported(Mlp(), torch.randn(2, 64)).module)
    assert text.count("torch.aten.linear ") == 2
    assert "!torch.vtensor<[?,64],f32>" in text


def test_locations_carry_module_path_and_source_line():
    asm = imported(Mlp(), torch.randn(2, 64)).module.operation.get_asm(enable_debug_info=True)
    assert 'loc("down"' in asm
    assert f'"{__file__}":' in asm


def test_a_weight_that_is_not_read_is_not_in_the_module():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    text = str(imported(Idle(), torch.randn(2, 4)).module)
    assert "used.weight" in text
    assert "idle" not in text


def test_results_are_mutations_first_then_outputs():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x, y):
            self.n.add_(1)
            y.mul_(2)
            return x + self.n, None

    program = imported(Stateful(), torch.randn(2), torch.randn(2))
    kinds = [(result.kind, result.target) for result in program.signature.results]
    assert kinds == [(ResultKind.BUFFER, "n"), (ResultKind.INPUT, 1), (ResultKind.OUTPUT, None)]


def test_operators_that_the_dialect_lacks_become_torch_operator():
    class Difference(nn.Module):
        def forward(self, x):
            return torch.diff(x)

    assert 'torch.operator "torch.aten.diff"' in str(imported(Difference(), torch.randn(2, 5)).module)


def test_several_programs_share_a_context():
    shared = context()
    modules = [import_program(capture(Mlp().eval(), (torch.randn(2, 64),)), shared).module for _ in range(2)]
    assert str(modules[0]) == str(modules[1])


class Conditional(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


class Unsigned(nn.Module):
    def forward(self, x):
        return x.to(torch.uint16)


@pytest.mark.parametrize(
    ("model", "words"),
    [(Conditional(), ["cond", "test_importer.py:"]), (Unsigned(), ["uint16", "test_importer.py:"])],
)
def test_what_has_no_form_in_the_dialect_is_named_with_its_line(model, words):
    with pytest.raises(FrontendError) as caught:
        imported(model, torch.randn(2, 3))
    for word in words:
        assert word in str(caught.value)


class Checking(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x):
        torch._check((x < 10).all().item())
        return self.fc(x)


def test_a_bool_as_a_number_is_one_or_zero_in_each_torch():
    """Torch 2.11 and 2.13 export it by different functions."""
    captured = capture(Checking().eval(), (torch.rand(2, 16),))
    for node in captured.exported.graph.nodes:
        if node.target is torch.sym_ite:
            node.target, node.args = cast_symbool_to_symint_guardless, node.args[:1]
    text = str(import_program(captured, context()).module)
    assert text.count('torch.operator "torch.sym.sym_ite"') == 1
