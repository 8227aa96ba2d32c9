"""Capture: which calls a program serves, and what is refused with which words."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sparseflow.errors import CaptureError, InferenceOnlyError, SparseFlowError
from sparseflow.frontend import capture


class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x, y=None, *, flag=True):
        out = self.linear(x)
        return out if y is None else out + y[: x.shape[0]]


@pytest.fixture
def program():
    return capture(Adder().eval(), (torch.randn(2, 3, 8), torch.randn(4, 3, 6)))


def test_other_sizes_are_accepted(program):
    for n, m in ((2, 5), (1, 4), (7, 1)):
        assert program.accepts((torch.randn(n, m, 8), torch.randn(n + 2, m, 6))) is None


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((torch.randn(2, 3, 8),), {}, "y is missing"),
        ((torch.randn(2, 3, 8), torch.randn(4, 3, 6)), {"flag": True}, "flag was not there"),
        ((torch.randn(2, 3, 8), None), {}, "y is None, not a tensor"),
        ((torch.randn(2, 3, 8).double(), torch.randn(4, 3, 6)), {}, "x is 3-d torch.float64"),
        ((torch.randn(3, 8), torch.randn(4, 3, 6)), {}, "x is 2-d"),
        ((torch.randn(2, 3, 8, device="meta"), torch.randn(4, 3, 6)), {}, "on meta"),
        ((torch.randn(2, 3, 9), torch.randn(4, 3, 6)), {}, "x.shape[2] is 9, not 8"),
        ((torch.randn(2, 3, 8), torch.randn(4, 4, 6)), {}, "differs from"),
        ((torch.randn(5, 3, 8), torch.randn(4, 3, 6)), {}, "x.shape[0]"),
        (([torch.randn(2, 3, 8)], torch.randn(4, 3, 6)), {}, "x"),
    ],
)
def test_what_a_program_can_not_serve_is_refused_with_the_reason(args, kwargs, reason, program):
    assert reason in str(program.accepts(args, kwargs))


def test_position_and_keyword_are_one_call(program):
    x, y = torch.randn(2, 3, 8), torch.randn(4, 3, 6)
    assert program.accepts((x,), {"y": y}) is None
    assert program.accepts((), {"y": y, "x": x}) is None


def test_relations_between_sizes_are_guards():
    class Halves(nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] // 2, 2, x.shape[1])

    program = capture(Halves().eval(), (torch.randn(6, 4),))
    assert program.accepts((torch.randn(10, 3),)) is None
    assert "x.shape[0]" in str(program.accepts((torch.randn(5, 4),)))


def test_a_size_that_is_fixed_only_after_it_was_read_is_a_number():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 6)

        def forward(self, x):
            width = x.shape[-1]
            return self.linear(x + torch.arange(2 * width)[width:])

    model, x = Late().eval(), torch.randn(3, 8)
    program = capture(model, (x,))
    values = [node.meta.get("val") for node in program.exported.graph.nodes]
    assert not any(isinstance(value, int | torch.SymInt) for value in values)
    assert torch.equal(program.exported.module()(x)[0], model(x))


def test_what_a_model_asserts_of_its_data_stays_and_what_torch_asserts_of_slices_goes():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.arange(32))

        def forward(self, x, count):
            n = count.item()
            torch._check(n >= 0)
            torch._check(n <= 5)
            return x + self.places[: x.shape[0]], x[:n]

    model, x = Slices().eval(), torch.randn(7)
    exported = capture(model, (x, torch.tensor(3))).exported
    asserted = [node.args[1] for node in exported.graph.nodes if "_assert_scalar" in str(node.target)]
    assert asserted
    assert all("u0" in text for text in asserted)
    for found, expected in zip(exported.module()(x, torch.tensor(4)), model(x, torch.tensor(4)), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(RuntimeError, match="u0 <= 5"):
        exported.module()(x, torch.tensor(6))


def test_a_capture_that_fails_leaves_no_hooks():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    hooks = torch.nn.modules.module._global_buffer_registration_hooks
    before = dict(hooks)
    with pytest.raises(CaptureError):
        capture(Branches().eval(), (torch.ones(3),))
    assert dict(hooks) == before


def test_dynamic_shapes_may_be_given_by_name():
    x, y = torch.randn(2, 3, 8), torch.randn(4, 3, 6)
    program = capture(Adder().eval(), (x, y), dynamic_shapes={"x": {0: torch.export.Dim("n", min=2, max=4)}})
    assert program.accepts((torch.randn(3, 3, 8), y)) is None
    assert program.accepts((torch.randn(3, 2, 8), torch.randn(4, 2, 6))) is not None
    with pytest.raises(CaptureError, match="dynamic_shapes names 'z'"):
        capture(Adder().eval(), (x, y), dynamic_shapes={"z": None})


def test_a_model_in_training_mode_is_refused():
    model = Adder().eval()
    model.linear = nn.Sequential(model.linear, nn.Dropout(0.5))
    with pytest.raises(InferenceOnlyError, match=r"Adder\.linear\.1"):
        capture(model, (torch.randn(2, 3, 8), torch.randn(2, 3, 6)))
    with pytest.raises(InferenceOnlyError, match="Adder"):
        capture(Adder(), (torch.randn(2, 3, 8), torch.randn(2, 3, 6)))


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x):
        self.seen = torch.cat([self.seen, x[0]])
        return self.seen


class Rescaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        self.linear.weight.div_(2)
        return self.linear(x)


class Mismatched(nn.Module):
    def forward(self, x):
        return x @ torch.ones(7, 7)


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Branching(), ["Branching", "test_capture.py", "if x.sum() > 0", "data-dependent", "torch.where"]),
        (Growing(), ["Growing.seen", "keep a buffer's shape"]),
        (Rescaling(), ["linear.weight", "writes this parameter"]),
        (Mismatched(), ["x @ torch.ones(7, 7)", "runs with these inputs"]),
        (Numpy(), ["torch.from_numpy"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_not_be_captured_is_named_with_its_line_and_the_way_out(model, words, capfd):
    with pytest.raises(CaptureError) as caught:
        capture(model.eval(), (torch.randn(2, 3),))
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert capfd.readouterr() == ("", "")


def test_a_model_may_take_no_tensor():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, scale=1.0):
            return self.linear.weight * scale

    program = capture(Table().eval(), (), {"scale": 2.0})
    assert program.accepts((2.0,)) is None
    assert program.accepts((3.0,)) == "scale is 3.0, not 2.0"


def test_a_call_that_forward_does_not_take_says_so():
    with pytest.raises(CaptureError, match="missing 1 required positional argument: 'x'"):
        capture(Adder().eval(), ())


class Untidy(nn.Module):
    """Leaves traces in its attributes."""

    def __init__(self, fail):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.calls = 0
        self.fail = fail

    def forward(self, x):
        self.calls += 1
        self.memo = self.linear(x)
        self.linear.extra = x
        if self.fail:
            raise ValueError("no")
        return self.memo


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_and_torch_stay_as_they_were(fail):
    model = Untidy(fail).eval()
    before = {name: copy.copy(vars(module)) for name, module in model.named_modules()}
    parameters = list(model.parameters())
    random, grad = torch.get_rng_state(), torch.is_grad_enabled()
    try:
        capture(model, (torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),))
    except SparseFlowError:
        assert fail
    assert {name: vars(module) for name, module in model.named_modules()} == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.requires_grad for parameter in parameters)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled() == grad


def test_a_meta_model_is_captured_without_bytes():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU()).eval()
        program = capture(model, (torch.empty(2, 4096),))
    assert program.accepts((torch.empty(5, 4096, device="meta"),)) is None
