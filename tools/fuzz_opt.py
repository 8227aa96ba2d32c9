"""Inputs for `sparseflow-opt`: the texts of the lit tests, mutated by token, line and byte."""

from __future__ import annotations

import contextlib
import io
import random
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_mlir import ir

from sparseflow.passes.phases import PHASES
from sparseflow.passes.registry import PASSES
from sparseflow.tools import driver
from sparseflow.tools.opt import main

TESTS = Path(__file__).parents[1] / "test"
TOKEN = re.compile(r'"[^"\n]*"|[%@!#^][\w.#$-]+|[A-Za-z_][\w.$-]*|\d+(?:\.\d+)?|\s+|->|.', re.DOTALL)
_COMMENT = re.compile(r"^ *// (?!-----|expected-).*\n", re.MULTILINE)
NUMBERS = ("-1", "0", "1", "2", "3", "7", "64", "4294967296", "9223372036854775807", "1e400", "-0.0", "?")
BYTES = ("\0", "\ufeff", "é", "\U0001f600", "\x7f", "\r", "\\", '"', "(", "<", "]", "}")
OPTIONS = {
    "match-sparse-linear": ("skip=*", "skip=fc", "min-n=1", "min-k=0", "min-n=-1", "nope=1", "skip"),
    "merge-projections": ("max-parts=0", "max-parts=2", "max-parts=x"),
    "choose-format": ("skip=*", "format=2:4-fp8", "format=none"),
    "apply-policy": ("table=/dev/null", "table=/nope"),
}
SWITCHES = (
    *("--split-input-file", "--verify-diagnostics", "--mlir-print-debuginfo", "--emit-bytecode"),
    *("--allow-unregistered-dialect", "--mlir-timing", "--mlir-print-ir-after-all"),
)
_OUTCOMES = {0: "compiled", 1: "refused", 2: "misused"}
_SIGNS_OF_A_BUG = ("Traceback", "internal error", "that is a bug in the pass")
NATIVE = ("canonicalize", "cse", "inline", "symbol-dce", "func.func(canonicalize)", "func.func(cse)")


INPUTS_A_CONTEXT = 100
LONGEST = 100_000
"""Characters of a repeated token: what is long takes long, which is no finding."""


class SharedContext:
    """torch_mlir.ir with one context for many inputs: making one takes longer than most inputs."""

    def __init__(self) -> None:
        self._asked, self._context = 0, ir.Context()

    def __getattr__(self, name: str) -> Any:
        return self._shared if name == "Context" else getattr(ir, name)

    def _shared(self) -> ir.Context:
        self._asked += 1
        if self._asked % INPUTS_A_CONTEXT == 0:
            self._context = ir.Context()
        return self._context


class OptTarget:
    """`sparseflow-opt`, run in-process.

    Args:
        seed: of all inputs.
        scratch: where an input is written.
    """

    def __init__(self, seed: int, scratch: Path) -> None:
        self._seed, self._file = seed, scratch / "input.mlir"
        texts = [_COMMENT.sub("", path.read_text()) for path in sorted(TESTS.glob("*/*.mlir"))]
        self._corpus = [part for text in texts for part in text.split("// -----") if part.strip()]
        vars(driver)["ir"] = SharedContext()
        self._words: dict[str, list[str]] = {}
        for part in self._corpus:
            for token in TOKEN.findall(part):
                self._words.setdefault(_sort(token), []).append(token)

    def run(self, number: int) -> tuple[str, str]:
        """Try an input: the exit code must be one of three, and no output a traceback."""
        rng = random.Random(f"opt {self._seed} {number}")
        content = self._content(rng)
        self._file.write_bytes(content)
        args = [str(self._file), *_arguments(rng)]
        code, text = _call(args)
        if code in _OUTCOMES and not any(sign in text for sign in _SIGNS_OF_A_BUG):
            return _OUTCOMES[code], ""
        return "wrong", f"exit code {code} of {args[1:]}\n{text[-4000:]}\n{content.decode(errors='replace')}"

    def _content(self, rng: random.Random) -> bytes:
        text = rng.choice(self._corpus)
        for _ in range(min(1 + int(rng.expovariate(1.2)), 8)):
            text = rng.choice(_MUTATIONS)(rng, text, self)
        data = text.encode("utf-8", "surrogatepass")
        return _spoilt(rng, data) if rng.random() < 0.03 else data

    def other(self, rng: random.Random, token: str) -> str:
        """Another token of the same sort."""
        if token.isdigit() and rng.random() < 0.5:
            return rng.choice(NUMBERS)
        return rng.choice(self._words[_sort(token)])

    def part(self, rng: random.Random) -> str:
        """A text of the corpus."""
        return rng.choice(self._corpus)


def _sort(token: str) -> str:
    if token[0] in '%@!#^"':
        return token[0]
    return "word" if token[0].isalpha() else "number" if token[0].isdigit() else "sign"


def _call(args: list[str]) -> tuple[int, str]:
    """The exit code of the driver and what it printed."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogatepass"), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(args)
    except BaseException:  # whatever gets out is a finding
        return -1, traceback.format_exc()
    return code, err.getvalue()


def _arguments(rng: random.Random) -> list[str]:
    """Passes and switches."""
    switches = [switch for switch in SWITCHES if rng.random() < 0.12]
    kind = rng.random()
    if kind < 0.35:
        return [*switches, f"--pipeline={rng.choice(list(PHASES))}"]
    names = rng.choices(list(PASSES) if kind < 0.9 else NATIVE, k=rng.randint(1, 4))
    passes = [name + _options(rng, name) for name in names]
    return [*switches, f"--pass-pipeline=builtin.module({','.join(passes)})"]


def _options(rng: random.Random, name: str) -> str:
    known = OPTIONS.get(name)
    return f"{{{rng.choice(known)}}}" if known and rng.random() < 0.3 else ""


Mutation = Callable[[random.Random, str, OptTarget], str]


def _by_token(change: Callable[[random.Random, list[str], int, OptTarget], None]) -> Mutation:
    def mutate(rng: random.Random, text: str, target: OptTarget) -> str:
        tokens = TOKEN.findall(text)
        solid = [i for i, token in enumerate(tokens) if not token.isspace()]
        if solid:
            change(rng, tokens, rng.choice(solid), target)
        return "".join(tokens)

    return mutate


def _replace(rng: random.Random, tokens: list[str], at: int, target: OptTarget) -> None:
    tokens[at] = target.other(rng, tokens[at])


def _replace_everywhere(rng: random.Random, tokens: list[str], at: int, target: OptTarget) -> None:
    old, new = tokens[at], target.other(rng, tokens[at])
    tokens[:] = [new if token == old else token for token in tokens]


def _drop(rng: random.Random, tokens: list[str], at: int, target: OptTarget) -> None:
    del tokens[at]


def _repeat(rng: random.Random, tokens: list[str], at: int, target: OptTarget) -> None:
    tokens[at] *= min(rng.choice((2, 2, 2, 40, 3000)), 1 + LONGEST // len(tokens[at]))


def _exchange(rng: random.Random, tokens: list[str], at: int, target: OptTarget) -> None:
    other = rng.randrange(len(tokens))
    tokens[at], tokens[other] = tokens[other], tokens[at]


def _lines(rng: random.Random, text: str, target: OptTarget) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines.insert(at, rng.choice(target.part(rng).splitlines(keepends=True)))
        case 4:
            lines = lines[: at + 1] if rng.random() < 0.2 else [*lines, target.part(rng)]
    return "".join(lines) or text


def _character(rng: random.Random, text: str, target: OptTarget) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(BYTES) + text[at + rng.randint(0, 1) :]


_MUTATIONS: tuple[Mutation, ...] = (
    *(_by_token(_replace),) * 6,
    *(_by_token(_replace_everywhere),) * 6,
    *(_by_token(change) for change in (_drop, _repeat, _exchange)),
    *(_lines,) * 4,
    _character,
)


def _spoilt(rng: random.Random, data: bytes) -> bytes:
    """Bytes that are no text any more, or claim to be bytecode."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return b"ML\xefR" + bytes(spoilt) if rng.random() < 0.3 else bytes(spoilt)
