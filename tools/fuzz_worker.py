"""One process of `fuzz.py`: tries inputs in turn and logs what becomes of each.

A crash or hang ends the process; the log then names the input that did it.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

MOST_CPU, LONGEST = 30.0, 900.0
"""Seconds for one input: of the processor, and by the clock, on however busy a machine."""
MOST_MEMORY = 4 << 30
"""Bytes of address space beside what is imported; asking for more is an error before the machine is full."""


class Target(Protocol):
    """What is fuzzed."""

    def run(self, number: int) -> tuple[str, str]:
        """Try an input: how it ended, and what is wrong with that, if anything."""


def make_target(name: str, seed: int, scratch: Path) -> Target:
    """The target of a name; only what it needs is imported."""
    if name == "opt":
        from fuzz_opt import OptTarget

        return OptTarget(seed, scratch)
    if name == "compile":
        from fuzz_compile import CompileTarget

        return CompileTarget(seed, scratch)
    from fuzz_load import LoadTarget

    return LoadTarget(seed, scratch)


def work(target: Target, inputs: range, log: Path, deadline: float) -> None:
    """Try inputs until a time of `time.monotonic`, each with a line in the log before and after it."""
    with log.open("a", buffering=1) as stream:
        for number in inputs:
            if time.monotonic() > deadline:
                return
            stream.write(json.dumps({"input": number}) + "\n")
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            signal.setitimer(signal.ITIMER_PROF, MOST_CPU)
            outcome, finding = target.run(number)
            faulthandler.cancel_dump_traceback_later()
            stream.write(json.dumps({"input": number, "outcome": outcome, "finding": finding}) + "\n")


def main() -> int:
    """Run what `fuzz.py` asked for."""
    name, first, stop, seed, folder, deadline = sys.argv[1:]
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # which then ends the process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    scratch = Path(folder)
    tempfile.tempdir = folder  # a failing pass leaves its input behind
    target = make_target(name, int(seed), scratch)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY + pages * resource.getpagesize(),) * 2)
    work(target, range(int(first), int(stop)), scratch / "log", float(deadline))
    return 0


if __name__ == "__main__":
    sys.exit(main())
