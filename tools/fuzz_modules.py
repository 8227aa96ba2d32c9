"""Statements of random small modules, as Python text: half of the grammar of `fuzz_compile.py`."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

WIDTH = 16
"""Of every matrix and every row: the least that becomes sparse."""


@dataclass
class Draft:
    """A module in the making.

    Attributes:
        rng: decides.
        fields: statements of `__init__`.
        body: statements of `forward`, indented as they stand there.
        rows: names of variables of `forward` whose last dimension is `WIDTH`.
        places: expressions for matrices ``[WIDTH, WIDTH]`` that are no parameters.
        tables: statements of the file.
        stateful: whether a call changes what later ones give.
        number: of the next name.
    """

    rng: random.Random
    fields: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=lambda: ["x"])
    tables: list[str] = field(default_factory=list)
    stateful: bool = False
    number: int = 0

    def name(self, prefix: str) -> str:
        """A name that nothing has yet."""
        self.number += 1
        return f"{prefix}{self.number}"

    def row(self) -> str:
        """A variable, more often a late one."""
        return self.rng.choice([*self.rows, *self.rows[-2:]])

    def add(self, expression: str) -> None:
        """A new variable."""
        name = self.name("v")
        self.body.append(f"{name} = {expression}")
        self.rows.append(name)

    def linear(self) -> str:
        """An expression for a layer, an old or a new one."""
        old = [line.split(" = ")[0] for line in self.fields if "nn.Linear(" in line]
        if old and self.rng.random() < 0.4:
            return self.rng.choice(old)
        name = f"self.{self.name('fc')}"
        bias = self.rng.choice(["", "", ", bias=False"])
        self.fields.append(f"{name} = nn.Linear({WIDTH}, {WIDTH}{bias})")
        if old and self.rng.random() < 0.25:
            self.fields.append(f"{name}.weight = {self.rng.choice(old)}.weight")
        return name

    def matrix(self) -> str:
        """An expression for a matrix that no layer holds."""
        name = self.name("m")
        new = f"torch.randn({WIDTH}, {WIDTH}) / 4"
        match self.rng.randrange(8):
            case 0:
                self.fields.append(f"self.{name} = nn.Parameter({new})")
            case 1 | 2:
                persistent = self.rng.choice(["", ", persistent=False"])
                self.fields.append(f'self.register_buffer("{name}", {new}{persistent})')
            case 3:
                self.fields.append(f"self.{name} = {new}")
            case 4:
                self.fields.append(f"self.{name} = [{new}, {new}]")
                return f"self.{name}[{self.rng.randrange(2)}]"
            case 5:
                self.fields.append(f'self.{name} = {{"a": {new}, "b": {new}}}')
                return f'self.{name}["{self.rng.choice("ab")}"]'
            case 6:
                self.tables.append(f"{name.upper()} = {new}")
                return name.upper()
            case 7:
                return f"{self.linear()}.weight"
        return f"self.{name}"


Statement = Callable[[Draft], None]


def _layer(d: Draft) -> None:
    call = f"{d.linear()}({d.row()})"
    d.add(d.rng.choice([call, call, f"F.relu({call})", f"F.gelu({call})", f"F.silu({call}) * {d.row()}"]))


def _gated(d: Draft) -> None:
    row = d.row()
    d.add(f"{d.linear()}(F.silu({d.linear()}({row})) * {d.linear()}({row}))")


def _siblings(d: Draft) -> None:
    row = d.row()
    for _ in range(d.rng.randint(2, 3)):
        d.add(f"{d.linear()}({row})")


def _residual(d: Draft) -> None:
    d.add(f"{d.row()} + {d.linear()}({d.row()})")


def _product(d: Draft) -> None:
    row, matrix = d.row(), d.matrix()
    forms = ("{0} @ {1}.T", "{0} @ {1}", "F.linear({0}, {1})", "torch.matmul({0}, {1})", "{0} @ {1}.mT")
    d.add(d.rng.choice(forms).format(row, matrix))


def _derived(d: Draft) -> None:
    weight = f"{d.linear()}.weight"
    forms = (
        "F.linear({0}, {1} / {1}.norm())",
        "{0} * {1}.sum()",
        "{0} + {1}[0]",
        'torch.einsum("...k,nk->...n", {0}, {1})',
        "F.linear({0}, {1} * 0.5)",
        "F.linear({0}, {1}.clone())",
    )
    d.add(d.rng.choice(forms).format(d.row(), weight))


def _pointwise(d: Draft) -> None:
    forms = (
        *("{0} + {1}", "{0} * {1}", "{0} - 0.5 * {1}", "{0}.tanh()", "torch.sigmoid({0})", "F.gelu({0})"),
        *("{0}.softmax(-1)", f"F.layer_norm({{0}}, ({WIDTH},))", "{0} / (1 + {1}.abs())", "{0}.detach()"),
        *("{0}.clone()", "{0} / {0}.shape[0]", "{0} * {0}.shape[-2]", "{0}.to({1}.dtype)"),
    )
    d.add(d.rng.choice(forms).format(d.row(), d.row()))


def _view(d: Draft) -> None:
    half = WIDTH // 2
    forms = (
        f"torch.cat([{{0}}[..., {half}:], {{0}}[..., :{half}]], -1)",
        "{0}.flip(-1)",
        "{0}.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)",
        "{0}.view({0}.shape)",
        "{0}.transpose(0, -2)",
        "{0}[...]",
        "{0}.expand_as({0})",
        "{0}[:1]",
        f"{{0}}.reshape(-1, {WIDTH}).view({{0}}.shape)",
        "{0}.contiguous()",
        "torch.chunk({0}, 2, -1)[0].repeat(*(1,) * ({0}.dim() - 1), 2)",
    )
    d.add(d.rng.choice(forms).format(d.row()))


def _in_place(d: Draft) -> None:
    forms = (
        *("{0}.add_(1)", "{0}.mul_(0.5)", "{0}[..., 0] = 0", "{0} += {1}", "{0}.copy_({1})", "{0}.relu_()"),
        *("{0}[..., :2].add_({1}[..., :2])", "{0}.masked_fill_({1} > 0, 0.25)", "{0}[:1] = 0.5"),
        *("torch.add({0}, 1, out={0})", "{0}.zero_()", "{0}[..., 1::2].mul_(2)", "{0}.t_().t_()"),
        *("{0}.index_fill_(-1, torch.tensor([0, 3]), 1.0)", "F.relu({0}, inplace=True)"),
    )
    target = d.rng.choice(["x", d.row(), d.row()])
    d.stateful = True  # calls in two threads may have an input in common
    d.body.append(d.rng.choice(forms).format(target, d.row()))


def _buffer(d: Draft) -> None:
    name, row = d.name("b"), d.row()
    d.fields.append(f'self.register_buffer("{name}", torch.zeros({WIDTH}))')
    d.stateful = True
    forms = (
        "self.{0}.add_(1)",
        "self.{0} += {1}.mean().detach()",
        "self.{0} = self.{0} + 1",
        "self.{0}.copy_({1}.reshape(-1, 16).mean(0))",
        "self.{0}[0] = {1}.shape[0]",
        "self.{0}.mul_(0.5).add_({1}.reshape(-1, 16).amax(0), alpha=0.5)",
    )
    d.body.append(d.rng.choice(forms).format(name, row))
    d.add(f"{row} + self.{name}")


def _attribute(d: Draft) -> None:
    name, row = d.name("s"), d.row()
    d.stateful = True
    kind = d.rng.randrange(6)
    initial = ("None", "0", "[]", "{}", "torch.zeros(16)", "0.5")[kind]
    d.fields.append(f"self.{name} = {initial}")
    lines = (
        [f"self.{name} = {row} if self.{name} is None else self.{name}.mean() + {row}"],
        [f"self.{name} += 1"],
        [f"self.{name}.append({row}.mean())"],
        [f'self.{name}["k"] = {row}.mean()'],
        [f"self.{name} = self.{name} + {row}.mean()"],
        [f"self.{name} = {row}.mean()"],
    )[kind]
    read = (
        f"{row} + self.{name}",
        f"{row} * self.{name}",
        f"{row} + len(self.{name})",
        f'{row} + self.{name}["k"]',
        f"{row} + self.{name}",
        f"{row} + self.{name}",
    )[kind]
    d.body += lines
    d.add(read)


def _flag(d: Draft) -> None:
    name = d.name("flag")
    d.fields.append(f"self.{name} = {d.rng.choice(['True', 'False'])}")
    _branch(d, f"self.{name}")


def _grad_mode(d: Draft) -> None:
    modes = ["torch.no_grad()", "torch.enable_grad()", "torch.set_grad_enabled(False)"]
    _block(d, f"with {d.rng.choice(modes)}:")


def _gradients(d: Draft) -> None:
    """What forward may ask of gradients: of a result, an input, a parameter, or torch."""
    row, weight = d.row(), f"{d.linear()}.weight"
    conditions = (
        *(f"{row}.requires_grad", f"{row}.requires_grad", "x.requires_grad", f"{weight}.requires_grad"),
        *(f"{row}.is_leaf", f"{weight}.T.is_leaf", f"{row}.grad_fn is not None", f"{weight}.grad is None"),
        *("torch.is_grad_enabled()", "torch.is_grad_enabled()", "torch.is_inference_mode_enabled()"),
        *(f"{row}.is_inference()", f"not {row}.detach().requires_grad", "x.grad_fn is None", "self.training"),
    )
    _branch(d, d.rng.choice(conditions))


def _autocast(d: Draft) -> None:
    enabled = d.rng.choice(["", "", ", enabled=False"])
    _block(d, f'with torch.autocast("cpu", dtype=torch.bfloat16{enabled}):')


def _block(d: Draft, head: str) -> None:
    """Some statements under a line that ends with a colon."""
    at = len(d.body)
    for _ in range(d.rng.randint(1, 2)):
        d.rng.choice(_PURE)(d)
    d.body[at:] = [head + "\n" + textwrap.indent("\n".join(d.body[at:]), "    ")]


def _branch(d: Draft, condition: str) -> None:
    row = d.row()
    name = d.name("v")
    other = d.rng.choice([f"{row} * 2", f"{d.linear()}({row})", f"{row}.flip(-1)"])
    d.body += [f"{name} = {row}", f"if {condition}:\n    {name} = {other}"]
    d.rows.append(name)


def _condition(d: Draft) -> None:
    row = d.row()
    conditions = (
        *(f"{row}.shape[0] > 2", f"{row}.dim() == 3", f"{row}.dtype == torch.float32", f"{row}.numel() > 64"),
        *(f"{row} is x", "x.is_contiguous()", "x.stride(-1) == 1", f"torch.is_tensor({row})"),
        *(
            "x.device.type == 'cpu'",
            "torch.is_autocast_enabled('cpu')",
        ),
    )
    _branch(d, d.rng.choice(conditions))


def _check(d: Draft) -> None:
    forms = (
        "torch._check((x.abs() < 100).all().item())",
        "torch._check(x.abs().max().item() < 100)",
        "assert x.dim() > 0",
        "assert bool((x < 100).all())",
        "torch._assert((x < 100).all(), 'large')",
        "torch._check((x.sum() < 40).item())",
        "torch._assert_async((x.mean() < 0.4))",
    )
    d.body.append(d.rng.choice(forms))


def _scalar(d: Draft) -> None:
    forms = ("{0} * {0}.mean().item()", "{0} * float({0}[..., 0].sum())", "{0} + int(({0} > 0).sum())")
    d.add(d.rng.choice(forms).format(d.row()))


_PURE: tuple[Statement, ...] = (_layer, _layer, _layer, _pointwise, _pointwise, _view, _product, _residual)
STATEMENTS: tuple[tuple[Statement, int], ...] = (
    *((_layer, 10), (_pointwise, 8), (_view, 6), (_product, 6), (_residual, 4), (_in_place, 7), (_buffer, 4)),
    *(
        (_attribute, 3),
        (_flag, 2),
        (_grad_mode, 2),
        (_gradients, 3),
        (_autocast, 2),
        (_condition, 3),
        (_check, 2),
    ),
    *((_scalar, 1), (_derived, 2), (_gated, 2), (_siblings, 3)),
)
