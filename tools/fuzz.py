"""Feed `sparseflow-opt` or `sf.load` with mutated inputs, and report every crash, hang and traceback.

Usage: fuzz.py {opt,load} [--count N] [--first I] [--seed S] [--out FOLDER]

Input I of a seed is always the same, so a finding is repeated by `--first I --count 1`. The inputs run in
worker processes: one that dies or hangs costs one input, which is kept beside the reason in FOLDER.
Prints the outcomes as JSON; the exit code is 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

WORKER = Path(__file__).with_name("fuzz_worker.py")
INPUTS_A_WORKER = 2000
TARGETS = ("opt", "load")


@dataclass
class Tally:
    """What became of the inputs: how many ended how, and the reason of each that should not have."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[int, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return sum(self.outcomes.values())


def fuzz(target: str, first: int, count: int, seed: int, out: Path, scratch: Path) -> Tally:
    """Try inputs `first` to `first + count`.

    Args:
        target: one of `TARGETS`.
        first: number of the first input.
        count: of inputs.
        seed: another one gives other inputs.
        out: where what is found is kept.
        scratch: for the workers.
    """
    tally, done = Tally(), first
    while done < first + count:
        stop = min(done + INPUTS_A_WORKER, first + count)
        done = _run_worker(target, done, stop, seed, out, scratch, tally)
        if sys.stderr.isatty():
            print(f"\r{done - first} inputs, {len(tally.findings)} findings", end="", file=sys.stderr)
    return tally


def _run_worker(target: str, first: int, stop: int, seed: int, out: Path, scratch: Path, tally: Tally) -> int:
    """Let a worker try inputs until it has or dies; the number of the first that was not tried."""
    log, errors = scratch / "log", scratch / "errors"
    log.unlink(missing_ok=True)
    words = [sys.executable, str(WORKER), target, str(first), str(stop), str(seed), str(scratch)]
    with errors.open("wb") as stream:
        code = subprocess.run(words, stderr=stream, stdout=subprocess.DEVNULL, check=False).returncode
    started: int | None = None
    for line in log.read_text().splitlines() if log.exists() else ():
        entry = json.loads(line)
        started = entry["input"]
        if "outcome" in entry:
            tally.outcomes[entry["outcome"]] += 1
            started = None
        if entry.get("finding"):
            _keep(target, entry["input"], entry["finding"], out, tally)
    if code == 0:
        return stop
    if started is None:
        raise RuntimeError(f"the worker ended with {code} before an input:\n{errors.read_text()[-3000:]}")
    tally.outcomes["died"] += 1
    reason = f"the process ended with {code}\n{errors.read_text(errors='replace')[-6000:]}"
    _keep(target, started, reason, out, tally)
    return started + 1


def _keep(target: str, number: int, reason: str, out: Path, tally: Tally) -> None:
    tally.findings[number] = reason
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{target}-{number}.txt").write_text(reason)


def main() -> int:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        tally = fuzz(options.target, options.first, options.count, options.seed, options.out, Path(scratch))
    print(json.dumps({"inputs": tally.inputs, "findings": sorted(tally.findings), **tally.outcomes}))
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
