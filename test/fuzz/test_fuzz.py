"""A bounded run of the fuzzers of tools/, and that they see what they are there for.

For longer: ``make fuzz``, or ``python tools/fuzz.py opt --count 50000``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import fuzz  # noqa: E402
import fuzz_opt  # noqa: E402


@pytest.mark.parametrize(("target", "count"), [("opt", 400), ("load", 150)])
def test_no_mutated_input_crashes_hangs_or_shows_a_traceback(target, count, tmp_path):
    seed = random.randrange(1 << 30)  # other inputs each time; a finding says how to repeat it
    words = [sys.executable, str(TOOLS / "fuzz.py"), target, "--count", str(count), "--seed", str(seed)]
    done = subprocess.run([*words, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr, [p.read_text() for p in tmp_path.iterdir()])
    outcomes = json.loads(done.stdout)
    assert outcomes["inputs"] == count
    assert outcomes["refused"] < count  # some inputs get through


WORKER = """
import os, sys
sys.path.insert(0, {tools!r})
import fuzz_worker
from pathlib import Path

class Target:
    def run(self, number):
        if number == 3:
            os.abort()
        while number == 5:
            pass
        return "refused", "a traceback" if number == 7 else ""

fuzz_worker.MOST_CPU = 0.5
fuzz_worker.make_target = lambda *_: Target()
sys.exit(fuzz_worker.main())
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.format(tools=str(TOOLS)))
    monkeypatch.setattr(fuzz, "WORKER", worker)


@pytest.mark.parametrize("at_once", [(2000, 1), (4, 3)])
def test_crashes_hangs_and_tracebacks_are_found_and_cost_one_input_each(
    at_once, faulty, tmp_path, monkeypatch
):
    inputs_a_worker, jobs = at_once
    monkeypatch.setitem(fuzz.INPUTS_A_WORKER, "opt", inputs_a_worker)
    tally = fuzz.fuzz("opt", range(10), 0, tmp_path / "out", tmp_path, jobs=jobs)
    assert sorted(tally.findings) == [3, 5, 7]
    assert (tally.inputs, tally.outcomes["died"]) == (10, 2)
    assert "in run" in tally.findings[5]
    assert (tmp_path / "out" / "opt-0-7.txt").read_text() == (
        "python tools/fuzz.py opt --seed 0 --first 7 --count 1\n\na traceback"
    )


def test_after_the_deadline_no_worker_is_started(faulty, tmp_path):
    assert fuzz.fuzz("opt", range(10), 0, tmp_path / "out", tmp_path, deadline=0).inputs == 0


def test_results_of_several_runs_are_kept_in_one_file(tmp_path):
    for first in (0, 10):
        fuzz.record(tmp_path / "fuzz.json", {"target": "opt", "first": first, "inputs": 10})
    found = json.loads((tmp_path / "fuzz.json").read_text())
    assert [row["first"] for row in found["rows"]] == [0, 10]
    assert found["meta"]["device"] == found["rows"][0]["meta"]["device"]


def test_an_exception_that_leaves_the_driver_is_a_finding(tmp_path, monkeypatch):
    def fail(args):
        raise IndexError("out of range")

    target = fuzz_opt.OptTarget(0, tmp_path)
    assert target.run(0)[1] == ""
    monkeypatch.setattr(fuzz_opt, "main", fail)
    assert "IndexError" in target.run(0)[1]
