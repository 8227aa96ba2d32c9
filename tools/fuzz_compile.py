"""Cases for `sf.compile` and torch.compile's backend, which must do what the eager model does, or refuse.

A case is a random small module with a sequence of calls; see `fuzz_calls.py`. A finding is told with the
shortest case that still shows it, in the form that test/fuzz/cases keeps.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
from fuzz_calls import make_case
from fuzz_case import Case
from fuzz_worlds import Verdict, run_case
from torch._subclasses.fake_tensor import FakeTensorMode

MOST_SHORTENING = 12.0
"""Seconds of the processor for shortening one finding."""


class CompileTarget:
    """A compiled model beside the eager one.

    Args:
        seed: of all cases.
        scratch: where compiled models are saved.
    """

    def __init__(self, seed: int, scratch: Path) -> None:
        self._seed, self._folder = seed, scratch
        torch.set_num_threads(1)
        # CUDA's driver dies when it starts under the limit of memory that the worker sets later.
        with FakeTensorMode():
            pass

    def case(self, number: int) -> Case:
        """The case of a number."""
        return make_case(random.Random(f"compile {self._seed} {number}"))

    def run(self, number: int) -> tuple[str, str]:
        """Try a case."""
        case = self.case(number)
        verdict = check(case, self._folder)
        if not verdict.finding:
            return verdict.outcome, ""
        short, verdict = shorten(case, verdict, self._folder)
        return "wrong", f"# {verdict.finding}\n{short.text()}".replace("\n#  ", "\n# ")


def check(case: Case, folder: Path) -> Verdict:
    """Run a case; what torch.compile does wrong with a backend of its own too is no finding."""
    verdict = run_case(case, folder)
    if verdict.finding and "torch.compile" in case.compile:
        # A hook that came later shows with "aot_eager" wherever that had to recompile for another reason.
        theirs = (run_case(case, folder, backend=backend) for backend in ("aot_eager", "eager"))
        if any(found.kind == verdict.kind for found in theirs):
            return Verdict("torch's own")
    return verdict


def shorten(case: Case, verdict: Verdict, folder: Path) -> tuple[Case, Verdict]:
    """Leave out lines as long as the finding stays of its kind."""
    end = time.process_time() + MOST_SHORTENING
    width = 8
    while width:
        lines = case.text().splitlines()
        at = len(lines)
        while at > 0 and time.process_time() < end:
            at = min(at, len(lines)) - 1
            part = lines[at : at + width]
            if any(line.startswith("# --- ") for line in part) and width > 1:
                continue
            if part[0].startswith(("# --- ", "sf.", "torch.compile")):
                continue
            fewer = lines[:at] + lines[at + width :]
            candidate = Case.parse("\n".join(fewer))
            found = check(candidate, folder)
            if found.kind == verdict.kind:
                case, verdict, lines = candidate, found, fewer
        width //= 2
    return case, verdict
