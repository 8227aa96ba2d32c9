"""Whole random cases: modules with arguments, and calls of them; statements are in `fuzz_modules.py`."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from fuzz_case import Case
from fuzz_modules import STATEMENTS, WIDTH, Draft


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
        (
            "x",
            "x",
            "like(x)",
            "like(x)",
            "None",
            "x[:1]",
            "x.clone()",
            "like(x)[:1]",
            "x.flip(0)",
            "x[..., :1]",
        ),
    ),
    _Argument("y", "y", ("x = x * 0.5 + y", "x = x @ self.fc0.weight + y"), ("x", "like(x)", "x[:1]", "0.5")),
    _Argument(
        "y",
        "y=None",
        (
            "if y is x:\n    x = x * 2",
            "if y is not None:\n    y.add_(1)\n    x = x + y",
            "x.mul_(2)\nx = x + y",
        ),
        ("x", "x", "like(x)", "like(x)", "x[...]", "x.view(x.shape)"),
    ),
    _Argument(
        "n", "n=1", ("x = x * n", "for _ in range(n):\n    x = self.fc0(x)"), ("0", "1", "2", "3", "True")
    ),
    _Argument("n", "n=1.0", ("x = x * n", "x = x + n if n > 0 else x"), ("0.5", "-1.0", "2", "1e3", "0")),
    _Argument("flag", "flag=False", ("if flag:\n    x = self.fc0(x)",), ("True", "False", "1", "None")),
    _Argument("mode", 'mode="a"', ('x = x * 2 if mode == "a" else x',), ('"a"', '"b"')),
    _Argument(
        "xs",
        "xs=()",
        (
            "for z in xs:\n    x = x + z",
            "x = sum(xs, x)",
            "xs.append(x * 2)",
            "xs[0] = x * 2",
            "x = x + len(xs)",
        ),
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
    draft = Draft(rng)
    draft.fields.append(f"self.fc0 = nn.Linear({WIDTH}, {WIDTH})")
    arguments = _choose_arguments(rng)
    draft.body += [rng.choice(argument.reads) for argument in arguments]
    kinds, weights = zip(*STATEMENTS, strict=True)
    for _ in range(rng.randint(1, 5)):
        rng.choices(kinds, weights)[0](draft)
    draft.stateful |= any("(" in read and ("add_" in read or "mul_" in read) for read in draft.body)
    prepare = 'sf.prune(model, "magnitude", progress=False)' if "sparse" in how else ""
    reference = 'sf.prune(model, "magnitude", progress=False)' if how == "magnitude" else ""
    module = _module(draft, arguments)
    steps = _steps(rng, draft, arguments, how)
    return Case(module, prepare, reference, _compile(rng, how), "\n".join(steps))


def _choose_arguments(rng: random.Random) -> list[_Argument]:
    chosen: dict[str, _Argument] = {}
    for argument in rng.sample(_ARGUMENTS, rng.choice((0, 1, 1, 2))):
        chosen.setdefault(argument.name, argument)
    return sorted(chosen.values(), key=lambda argument: "=" in argument.declared)


def _module(draft: Draft, arguments: Sequence[_Argument]) -> str:
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


def _result(draft: Draft) -> str:
    last, row = draft.rows[-1], draft.row()
    buffers = [line.split('"')[1] for line in draft.fields if line.startswith("self.register_buffer")]
    odd = ["x", row, f"{row}[:1]", f"{row}.shape", f"{row}.shape[0]", "None", "3", '"text"', f"{last}.dtype"]
    odd += [f"self.{name}" for name in buffers]
    other = draft.rng.choice(odd)
    forms = (
        last,
        last,
        last,
        f"({last}, {other})",
        f"[{last}, {row}, {other}]",
        f'{{"a": {last}, "b": {other}}}',
    )
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
    *(
        "rand(3, 16)",
        "rand(3, 16)",
        "rand(1, 16)",
        "rand(5, 16)",
        "rand(2, 3, 16)",
        "rand(4, 1, 16)",
        "rand(0, 16)",
    ),
    *("rand(6, 16)[::2]", "rand(16, 3).T", "rand(1, 16).expand(3, 16)", "rand(16)", "rand(3, 32)[:, ::2]"),
    *("rand(3, 16).double()", "rand(3, 16).bfloat16()", "rand(2, 16).requires_grad_()", "rand(3, 16) * 10"),
    "rand(2, 16).requires_grad_() * 1",
)
_USUAL = 7
"""Of `_INPUTS` those that most calls have."""


def _steps(rng: random.Random, draft: Draft, arguments: Sequence[_Argument], how: str) -> list[str]:
    steps: list[str] = []
    for _ in range(rng.randint(2, 5)):
        if rng.random() < 0.7 or not steps:
            usual = _INPUTS[:_USUAL] if rng.random() < 0.8 else _INPUTS
            steps.append(f"x = {rng.choice(usual)}")
        steps.append(_call(rng, draft, arguments))
        if rng.random() < 0.25:
            # What loads doesn't follow the model that was saved.
            steps.append("again()" if "reload()" in steps else _between(rng, draft, how))
    if how != "magnitude" and not (
        draft.stateful and "reload()" in steps
    ):  # what loads has a state of its own
        steps += ["x = rand(3, 16)", f"plain({_given(rng, arguments)})"]
    return steps


def _call(rng: random.Random, draft: Draft, arguments: Sequence[_Argument]) -> str:
    call = f"call({_given(rng, arguments)})"
    kind = rng.random()
    if kind < 0.06 and not draft.stateful:
        at_once = rng.choice(["parallel", "twins"])
        return f"{at_once}(given({_given(rng, arguments)}), given({_given(rng, arguments)}))"
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


def _between(rng: random.Random, draft: Draft, how: str) -> str:
    """A change of the model, or a use of it, between calls."""
    names = [line.split(" = ")[0].removeprefix("self.") for line in draft.fields if line.startswith("self.")]
    flags = [name for name in names if name.startswith("flag")]
    steps = ["again()", "reload()" if how in ("sparse", "dense", "magnitude") else "again()"]
    steps += [f"model.{name} = not model.{name}" for name in flags] * 3
    if how != "magnitude":
        steps += [
            "with torch.no_grad():\n    model.fc0.weight.mul_(0.5)",
            "model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})",
            "model.fc0 = nn.Linear(16, 16)",
            "model.fc0.weight = nn.Parameter(model.fc0.weight.detach() * 2)",
            "model.fc0.register_forward_hook(lambda module, args, result: result * 2)",
            "model.fc0.bias.data = model.fc0.bias.data * 3",
            "model.register_forward_pre_hook(lambda module, args: None)",
            "model.fc0.requires_grad_(not model.fc0.weight.requires_grad)",
            "model.fc0.weight.grad = torch.ones(16, 16)",
            "model.zero_grad()",
        ]
    for line in draft.fields:
        if line.startswith("self.register_buffer"):
            steps.append(f"model.{line.split(chr(34))[1]}.fill_(0.125)")
    return rng.choice(steps)
