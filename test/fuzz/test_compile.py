"""Compiled models beside eager ones: the cases of test/fuzz/cases, and random ones for a minute.

A finding of the fuzzer is such a case: keep it in that folder.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import fuzz_compile  # noqa: E402
from fuzz_calls import make_case  # noqa: E402
from fuzz_case import Case  # noqa: E402
from fuzz_compare import RACE  # noqa: E402
from fuzz_worlds import run_case  # noqa: E402

CASES = sorted(Path(__file__).with_name("cases").glob("*.case"))
OPEN: frozenset[str] = frozenset()
"""Cases that are known to be wrong; while there are any, random ones will be too."""
SECONDS = float(os.environ.get("SPARSEFLOW_FUZZ_SECONDS", "60"))

ECHO = """
# --- module
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc0 = nn.Linear(16, 16)
        self.n = 0
    def forward(self, x):
        {line}
        return self.fc0(x)
# --- compile
{compiled}
# --- steps
x = rand(3, 16)
call(x)
"""


def _case(path: Path):
    marks = [pytest.mark.xfail(strict=False, reason="known")] if path.stem in OPEN else []
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", map(_case, CASES))
def test_a_compiled_model_does_what_the_eager_one_does_or_refuses(path, tmp_path):
    text = path.read_text()
    verdict = fuzz_compile.check(Case.parse(text), tmp_path)
    assert not verdict.finding, f"{verdict.finding}\n{text}"
    assert verdict.outcome in ("equal", "refused", "raises")


@pytest.mark.xfail(bool(OPEN), strict=False, reason="what is known is found again")
def test_random_models_do_what_the_eager_ones_do_or_refuse(tmp_path):
    # The same each time, so that a change is judged by what it changes; scheduled.yml tries others.
    seed = int(os.environ.get("SPARSEFLOW_FUZZ_SEED", "900"))
    words = [sys.executable, str(TOOLS / "fuzz.py"), "compile", "--count", "100000", "--seed", str(seed)]
    words += ["--deadline", str(SECONDS), "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert done.returncode == 0, "\n".join([f"seed {seed}", done.stderr, done.stdout, *found])
    outcomes = json.loads(done.stdout)
    assert outcomes["equal"] > outcomes["inputs"] / 3


def run(line, compiled, folder):
    return run_case(Case.parse(ECHO.format(line=line, compiled=compiled)), folder)


def test_a_model_beside_itself_is_equal(tmp_path):
    assert run("self.n += 1", "model", tmp_path).outcome == "equal"


@pytest.mark.parametrize(
    ("line", "compiled", "kind"),
    [
        ("pass", "lambda x: model(x) * 1.01", "other result: off by"),
        ("pass", "lambda x: model(x).double()", "other result"),
        ("x.add_(1)", "lambda x: model(x.clone())", "other inputs"),
        ("self.n += 1", "lambda x: model.fc0(x)", "other model"),
        ("pass", "lambda x: 1 / 0", "raw ZeroDivisionError"),
        ("assert x.sum() > 99", "lambda x: model.fc0(x)", "no error"),
    ],
)
def test_what_differs_is_seen(line, compiled, kind, tmp_path):
    verdict = run(line, compiled, tmp_path)
    assert verdict.kind.startswith(kind)
    assert "call(x)" in verdict.finding


def test_a_refusal_is_no_finding_unless_it_left_something_changed(tmp_path):
    raising = '(_ for _ in ()).throw(sf.SparseFlowError("subject", "rule"))'
    assert run("pass", f"lambda x: {raising}", tmp_path).outcome == "refused"
    changing = f"lambda x: (x.add_(1), {raising})"
    assert run("pass", changing, tmp_path).kind == "a refused call changed something"


def test_what_torch_refuses_while_another_thread_traces_is_no_finding(tmp_path):
    error = f"Detected that {RACE}. This is not supported at the moment."
    raising = f"(_ for _ in ()).throw(RuntimeError({error!r}))"
    assert run("pass", f"lambda x: {raising}", tmp_path).outcome == "raises"


def test_a_number_is_always_the_same_case_and_its_text_is_all_of_it():
    cases = [make_case(random.Random(f"{number}")) for number in range(200)]
    assert cases == [make_case(random.Random(f"{number}")) for number in range(200)]
    stripped = [Case.parse(case.text()).text() for case in cases]
    assert stripped == [case.text() for case in cases]
    assert len({case.module for case in cases}) > 190


def test_a_finding_is_told_with_the_lines_that_it_needs(tmp_path):
    text = ECHO.format(line="x = x + 1\n        y = x", compiled="lambda x: model(x) * 1.01")
    case = Case.parse(text + "call(x)\nplain(x)\n")
    short, verdict = fuzz_compile.shorten(case, run_case(case, tmp_path), tmp_path)
    assert verdict.kind.startswith("other result")
    assert "y = x" not in short.module
    assert short.steps.count("call(x)") == 1
    assert "plain" not in short.steps
