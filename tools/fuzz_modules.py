"""Random small modules and what is done with them, as Python text: the grammar of `fuzz_compile.py`."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

SECTIONS = ("module", "prepare", "reference", "compile", "steps")
WIDTH = 16
"""Of every matrix and every row: the least that becomes sparse."""


@dataclass(frozen=True)
class Case:
    """A module and what is done with it, each part as Python text.

    Attributes:
        module: defines `Model`.
        prepare: what is done to `model` before it is compiled.
        reference: what is done to the eager model alone: the pruning that compiling does.
        compile: an expression: what stands in for `model`.
        steps: statements in which `call(…)` is a call of that.
    """

    module: str
    prepare: str
    reference: str
    compile: str
    steps: str

    def text(self) -> str:
        """All of it, as `parse` reads it."""
        return "".join(f"# --- {name}\n{getattr(self, name).strip()}\n" for name in SECTIONS)

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read what `text` wrote; comments before the first part are left out."""
        parts = dict.fromkeys(SECTIONS, "")
        for part in text.split("# --- ")[1:]:
            name, _, content = part.partition("\n")
            parts[name.strip()] = content
        return cls(**parts)


@dataclass
class _Draft:
    """A module in the making.

    Attributes:
        rng: decides.
        pruned: whether compiling prunes: then no parameter has two users, of which one might not know.
        fields: statements of `__init__`.
        body: statements of `forward`, indented as they stand there.
        rows: names of variables of `forward` whose last dimension is `WIDTH`.
        places: expressions for matrices ``[WIDTH, WIDTH]`` that are no parameters.
        tables: statements of the file.
        stateful: whether a call changes what later ones give.
        number: of the next name.
    """

    rng: random.Random
    pruned: bool = False
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
        if old and not self.pruned and self.rng.random() < 0.25:
            self.fields.append(f"{name}.weight = {self.rng.choice(old)}.weight")
        return name

    def matrix(self) -> str:
        """An expression for a matrix that no layer holds."""
        name = self.name("m")
        new = f"torch.randn({WIDTH}, {WIDTH}) / 4"
        match self.rng.randrange(1, 7) if self.pruned else self.rng.randrange(8):
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


Statement = Callable[[_Draft], None]


def _layer(d: _Draft) -> None:
    call = f"{d.linear()}({d.row()})"
    d.add(d.rng.choice([call, call, f"F.relu({call})", f"F.gelu({call})", f"F.silu({call}) * {d.row()}"]))


def _gated(d: _Draft) -> None:
    row = d.row()
    d.add(f"{d.linear()}(F.silu({d.linear()}({row})) * {d.linear()}({row}))")


def _siblings(d: _Draft) -> None:
    row = d.row()
    for _ in range(d.rng.randint(2, 3)):
        d.add(f"{d.linear()}({row})")


def _residual(d: _Draft) -> None:
    d.add(f"{d.row()} + {d.linear()}({d.row()})")


def _product(d: _Draft) -> None:
    row, matrix = d.row(), d.matrix()
    forms = ("{0} @ {1}.T", "{0} @ {1}", "F.linear({0}, {1})", "torch.matmul({0}, {1})", "{0} @ {1}.mT")
    d.add(d.rng.choice(forms).format(row, matrix))


def _derived(d: _Draft) -> None:
    if d.pruned:
        return _layer(d)
    weight = f"{d.linear()}.weight"
    forms = (
        "F.linear({0}, {1} / {1}.norm())",
        "{0} * {1}.sum()",
        "{0} + {1}[0]",
        'torch.einsum("...k,nk->...n", {0}, {1})',
        "F.linear({0}, {1} * 0.5)",
        "F.linear({0}, {1}.clone())",
    )
    return d.add(d.rng.choice(forms).format(d.row(), weight))


def _pointwise(d: _Draft) -> None:
    forms = (
        *("{0} + {1}", "{0} * {1}", "{0} - 0.5 * {1}", "{0}.tanh()", "torch.sigmoid({0})", "F.gelu({0})"),
        *("{0}.softmax(-1)", f"F.layer_norm({{0}}, ({WIDTH},))", "{0} / (1 + {1}.abs())", "{0}.detach()"),
        *("{0}.clone()", "{0} / {0}.shape[0]", "{0} * {0}.shape[-2]", "{0}.to({1}.dtype)"),
    )
    d.add(d.rng.choice(forms).format(d.row(), d.row()))


def _view(d: _Draft) -> None:
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


def _in_place(d: _Draft) -> None:
    forms = (
        *("{0}.add_(1)", "{0}.mul_(0.5)", "{0}[..., 0] = 0", "{0} += {1}", "{0}.copy_({1})", "{0}.relu_()"),
        *("{0}[..., :2].add_({1}[..., :2])", "{0}.masked_fill_({1} > 0, 0.25)", "{0}[:1] = 0.5"),
        *("torch.add({0}, 1, out={0})", "{0}.zero_()", "{0}[..., 1::2].mul_(2)", "{0}.t_().t_()"),
        *("{0}.index_fill_(-1, torch.tensor([0, 3]), 1.0)", "F.relu({0}, inplace=True)"),
    )
    target = d.rng.choice(["x", d.row(), d.row()])
    d.stateful = True  # calls in two threads may have an input in common
    d.body.append(d.rng.choice(forms).format(target, d.row()))


def _buffer(d: _Draft) -> None:
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


def _attribute(d: _Draft) -> None:
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


def _flag(d: _Draft) -> None:
    name = d.name("flag")
    d.fields.append(f"self.{name} = {d.rng.choice(['True', 'False'])}")
    _branch(d, f"self.{name}")


def _grad_mode(d: _Draft) -> None:
    if d.rng.random() < 0.5:
        return _branch(d, d.rng.choice(["torch.is_grad_enabled()", "self.training"]))
    mode = d.rng.choice(["torch.no_grad()", "torch.enable_grad()", "torch.set_grad_enabled(False)"])
    return _block(d, f"with {mode}:")


def _autocast(d: _Draft) -> None:
    enabled = d.rng.choice(["", "", ", enabled=False"])
    _block(d, f'with torch.autocast("cpu", dtype=torch.bfloat16{enabled}):')


def _block(d: _Draft, head: str) -> None:
    """Some statements under a line that ends with a colon."""
    at = len(d.body)
    for _ in range(d.rng.randint(1, 2)):
        d.rng.choice(_PURE)(d)
    d.body[at:] = [head + "\n" + textwrap.indent("\n".join(d.body[at:]), "    ")]


def _branch(d: _Draft, condition: str) -> None:
    row = d.row()
    name = d.name("v")
    other = d.rng.choice([f"{row} * 2", f"{d.linear()}({row})", f"{row}.flip(-1)"])
    d.body += [f"{name} = {row}", f"if {condition}:\n    {name} = {other}"]
    d.rows.append(name)


def _condition(d: _Draft) -> None:
    row = d.row()
    conditions = (
        *(f"{row}.shape[0] > 2", f"{row}.dim() == 3", f"{row}.dtype == torch.float32", f"{row}.numel() > 64"),
        *(f"{row} is x", "x.is_contiguous()", "x.stride(-1) == 1", f"torch.is_tensor({row})"),
        *("x.requires_grad", "x.device.type == 'cpu'", "torch.is_autocast_enabled('cpu')", "x.is_inference()"),
    )
    _branch(d, d.rng.choice(conditions))


def _check(d: _Draft) -> None:
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


def _scalar(d: _Draft) -> None:
    forms = ("{0} * {0}.mean().item()", "{0} * float({0}[..., 0].sum())", "{0} + int(({0} > 0).sum())")
    d.add(d.rng.choice(forms).format(d.row()))


_PURE: tuple[Statement, ...] = (_layer, _layer, _layer, _pointwise, _pointwise, _view, _product, _residual)
_STATEMENTS: tuple[tuple[Statement, int], ...] = (
    *((_layer, 10), (_pointwise, 8), (_view, 6), (_product, 6), (_residual, 4), (_in_place, 7), (_buffer, 4)),
    *((_attribute, 3), (_flag, 2), (_grad_mode, 2), (_autocast, 2), (_condition, 3), (_check, 2)),
    *((_scalar, 1), (_derived, 2), (_gated, 2), (_siblings, 3)),
)


@dataclass(frozen=True)
class _Argument:
    """A parameter of `forward`: how it is declared, what reads it, and what callers give for it."""

    name: str
    declared: str
    reads: Sequence[str]
    given: Sequence[str]


_ARGUMENTS = (
    _Argument(
        "y",
        "y=None",
        ("if y is not None:\n    x = x + y", "x = x if y is None else F.linear(y, self.fc0.weight) + x"),
        ("x", "x", "like(x)", "like(x)", "None", "x[:1]", "x.clone()", "like(x)[:1]", "x.flip(0)", "x[..., :1]"),
    ),
    _Argument("y", "y", ("x = x * 0.5 + y", "x = x @ self.fc0.weight + y"), ("x", "like(x)", "x[:1]", "0.5")),
    _Argument(
        "y",
        "y=None",
        ("if y is x:\n    x = x * 2", "if y is not None:\n    y.add_(1)\n    x = x + y", "x.mul_(2)\nx = x + y"),
        ("x", "x", "like(x)", "like(x)", "x[...]", "x.view(x.shape)"),
    ),
    _Argument("n", "n=1", ("x = x * n", "for _ in range(n):\n    x = self.fc0(x)"), ("0", "1", "2", "3", "True")),
    _Argument("n", "n=1.0", ("x = x * n", "x = x + n if n > 0 else x"), ("0.5", "-1.0", "2", "float('inf')", "0")),
    _Argument("flag", "flag=False", ("if flag:\n    x = self.fc0(x)",), ("True", "False", "1", "None")),
    _Argument("mode", 'mode="a"', ('x = x * 2 if mode == "a" else x',), ('"a"', '"b"')),
    _Argument(
        "xs",
        "xs=()",
        ("for z in xs:\n    x = x + z", "x = sum(xs, x)", "xs.append(x * 2)", "xs[0] = x * 2", "x = x + len(xs)"),
        ("[x]", "[like(x), x]", "(x, x)", "[]", "[like(x)] * 2", "[x, 0.5]"),
    ),
    _Argument(
        "d",
        "d=None",
        ('if d:\n    x = x + d["a"]', 'if d is not None:\n    d["b"] = x * 2', 'x = x + d.get("a", 0)'),
        ('{"a": x}', '{"a": like(x)}', "{}", '{"b": x, "a": like(x)}', '{"a": 0.5}'),
    ),
)


def make_case(rng: random.Random) -> Case:
    """A case: its module, and calls of it in some order."""
    how = rng.choices(("sparse", "dense", "magnitude", "backend", "backend sparse"), (4, 3, 3, 3, 1))[0]
    draft = _Draft(rng, pruned=how == "magnitude")
    draft.fields.append(f"self.fc0 = nn.Linear({WIDTH}, {WIDTH})")
    arguments = _choose_arguments(rng, draft.pruned)
    draft.body += [rng.choice(argument.reads) for argument in arguments]
    kinds, weights = zip(*_STATEMENTS, strict=True)
    for _ in range(rng.randint(1, 5)):
        rng.choices(kinds, weights)[0](draft)
    draft.stateful |= any("(" in read and ("add_" in read or "mul_" in read) for read in draft.body)
    prepare = 'sf.prune(model, "magnitude", progress=False)' if "sparse" in how else ""
    reference = 'sf.prune(model, "magnitude", progress=False)' if how == "magnitude" else ""
    module = _module(draft, arguments)
    steps = _steps(rng, draft, arguments, how)
    return Case(module, prepare, reference, _compile(rng, how), "\n".join(steps))


def _choose_arguments(rng: random.Random, pruned: bool) -> list[_Argument]:
    chosen: dict[str, _Argument] = {}
    for argument in rng.sample(_ARGUMENTS, rng.choice((0, 1, 1, 2))):
        reads = [read for read in argument.reads if not pruned or ".weight" not in read]
        chosen.setdefault(argument.name, replace(argument, reads=reads))
    return sorted(chosen.values(), key=lambda argument: "=" in argument.declared)


def _module(draft: _Draft, arguments: Sequence[_Argument]) -> str:
    declared = ", ".join(["self", "x", *(argument.declared for argument in arguments)])
    body = "\n".join([*draft.body, f"return {_result(draft)}"])
    lines = [
        *draft.tables,
        "class Model(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        textwrap.indent("\n".join(draft.fields), " " * 8),
        f"    def forward({declared}):",
        textwrap.indent(body, " " * 8),
    ]
    return "\n".join(lines)


def _result(draft: _Draft) -> str:
    last, row = draft.rows[-1], draft.row()
    buffers = [line.split('"')[1] for line in draft.fields if line.startswith("self.register_buffer")]
    odd = ["x", row, f"{row}[:1]", f"{row}.shape", f"{row}.shape[0]", "None", "3", '"text"', f"{last}.dtype"]
    odd += [f"self.{name}" for name in buffers]
    other = draft.rng.choice(odd)
    forms = (last, last, last, f"({last}, {other})", f"[{last}, {row}, {other}]", f'{{"a": {last}, "b": {other}}}')
    return draft.rng.choice([*forms, f"({last}, ({row}, [{other}]), {last})"])


def _compile(rng: random.Random, how: str) -> str:
    policy = rng.choice(['policy="sparse"', 'policy="sparse"', 'policy="sparse", memory="fast"'])
    if how.startswith("backend"):
        dynamic = rng.choice(["", "", ", dynamic=True", ", dynamic=False"])
        options = '{"prune": None, "policy": "sparse", "inner": "eager", "progress": False}'
        return f'torch.compile(model, backend="sparseflow"{dynamic}, options={options})'
    prune = '"magnitude"' if how == "magnitude" else "None"
    return f'sf.compile(model, prune={prune}, {policy}, inner="eager", progress=False)'


_INPUTS = (
    *("rand(3, 16)", "rand(3, 16)", "rand(1, 16)", "rand(5, 16)", "rand(2, 3, 16)", "rand(4, 1, 16)", "rand(0, 16)"),
    *("rand(6, 16)[::2]", "rand(16, 3).T", "rand(1, 16).expand(3, 16)", "rand(16)", "rand(3, 32)[:, ::2]"),
    *("rand(3, 16).double()", "rand(3, 16).bfloat16()", "rand(2, 16).requires_grad_()", "rand(3, 16) * 10"),
)
_USUAL = 7
"""Of `_INPUTS` those that most calls have."""


def _steps(rng: random.Random, draft: _Draft, arguments: Sequence[_Argument], how: str) -> list[str]:
    steps = []
    for _ in range(rng.randint(2, 5)):
        if rng.random() < 0.7 or not steps:
            usual = _INPUTS[:_USUAL] if rng.random() < 0.8 else _INPUTS
            steps.append(f"x = {rng.choice(usual)}")
        steps.append(_call(rng, draft, arguments))
        if rng.random() < 0.25:
            steps.append(_between(rng, draft, how))
    if how != "magnitude":
        steps += ["x = rand(3, 16)", f"plain({_given(rng, arguments)})"]
    return steps


def _call(rng: random.Random, draft: _Draft, arguments: Sequence[_Argument]) -> str:
    call = f"call({_given(rng, arguments)})"
    kind = rng.random()
    if kind < 0.06 and not draft.stateful:
        return f"parallel(given({_given(rng, arguments)}), given({_given(rng, arguments)}))"
    modes = ('torch.autocast("cpu", dtype=torch.bfloat16)', "torch.enable_grad()", "torch.inference_mode()")
    if kind < 0.16:
        return f"with {rng.choice(modes)}:\n    {call}"
    return call


def _given(rng: random.Random, arguments: Sequence[_Argument]) -> str:
    words = [rng.choice(["x", "x", "x", "x=x"])]
    by_name = words[0] == "x=x"
    for argument in arguments:
        if "=" in argument.declared and rng.random() < 0.25:
            by_name = True
            continue
        by_name = by_name or rng.random() < 0.4
        given = rng.choice(argument.given)
        words.append(f"{argument.name}={given}" if by_name else given)
    return ", ".join(words)


def _between(rng: random.Random, draft: _Draft, how: str) -> str:
    """A change of the model, or a use of it, between calls."""
    names = [line.split(" = ")[0].removeprefix("self.") for line in draft.fields if line.startswith("self.")]
    flags = [name for name in names if name.startswith("flag")]
    steps = ["again()", "reload()" if how in ("sparse", "dense", "magnitude") else "again()"]
    steps += [f"model.{name} = not model.{name}" for name in flags] * 3
    if how != "magnitude":
        steps += [
            "with torch.no_grad():\n    model.fc0.weight.mul_(0.5)",
            "model.fc0.bias.data.add_(1)",
            "model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})",
            "model.fc0 = nn.Linear(16, 16)",
            "model.fc0.weight = nn.Parameter(model.fc0.weight.detach() * 2)",
            "model.fc0.register_forward_hook(lambda module, args, result: result * 2)",
            "model.fc0.bias.data = model.fc0.bias.data * 3",
            "model.register_forward_pre_hook(lambda module, args: None)",
        ]
    for line in draft.fields:
        if line.startswith("self.register_buffer"):
            steps.append(f"model.{line.split(chr(34))[1]}.fill_(0.125)")
    return rng.choice(steps)
