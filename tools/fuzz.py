"""Feed `sparseflow-opt` or `sf.load` with mutated inputs, and report every crash, hang and traceback.

Or compile random models, and report every call that does something else than the eager model.

Usage: fuzz.py {opt,load,compile} [--count N] [--first I] [--seed S] [--jobs N] [--deadline SECONDS]
       [--out FOLDER] [--results FILE]

Input I of a seed is always the same, so a finding is repeated by `--first I --count 1`. The inputs run in
worker processes, N at a time: one that dies or hangs costs one input, which is kept beside the reason in
FOLDER. Prints the outcomes as JSON, and adds them to the rows of FILE; the exit code is 1 where something was
found.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("fuzz_worker.py")
INPUTS_A_WORKER = {"opt": 2000, "load": 2000, "compile": 200}
"""A worker that compiles grows."""
TARGETS = ("opt", "load", "compile")


@dataclass
class Tally:
    """What became of the inputs: how many ended how, and the reason of each that should not have."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[int, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """How many were tried."""
        return sum(self.outcomes.values())

    def add(self, other: Tally) -> None:
        """Count another's too."""
        self.outcomes.update(other.outcomes)
        self.findings.update(other.findings)


def fuzz(
    target: str,
    inputs: range,
    seed: int,
    out: Path,
    scratch: Path,
    *,
    jobs: int = 1,
    deadline: float = math.inf,
) -> Tally:
    """Try inputs, in order.

    Args:
        target: one of `TARGETS`.
        inputs: their numbers.
        seed: another one gives other inputs.
        out: where what is found is kept.
        scratch: for the workers.
        jobs: workers at a time.
        deadline: of `time.monotonic`, after which no input is started.
    """
    tally, folders = Tally(), queue.SimpleQueue[Path]()
    for job in range(jobs):
        folders.put(scratch / str(job))
        (scratch / str(job)).mkdir()

    def work(part: range) -> Tally:
        own, done, folder = Tally(), part.start, folders.get()
        while done < part.stop and (done > part.start or time.monotonic() < deadline):
            done = _run_worker(target, range(done, part.stop), seed, out, folder, own, deadline)
        folders.put(folder)
        return own

    with ThreadPoolExecutor(jobs) as pool:
        each = INPUTS_A_WORKER[target]
        parts = [inputs[at : at + each] for at in range(0, len(inputs), each)]
        for part in pool.map(work, parts):
            tally.add(part)
            if sys.stderr.isatty():
                print(f"\r{tally.inputs} inputs, {len(tally.findings)} findings", end="", file=sys.stderr)
    return tally


def _run_worker(
    target: str, inputs: range, seed: int, out: Path, scratch: Path, tally: Tally, deadline: float
) -> int:
    """Let a worker try inputs until it has or dies; the number of the first that was not tried."""
    log, errors = scratch / "log", scratch / "errors"
    log.unlink(missing_ok=True)
    numbers = (inputs.start, inputs.stop, seed)
    words = [sys.executable, str(WORKER), target, *map(str, numbers), str(scratch), str(deadline)]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with errors.open("wb") as stream:
        code = subprocess.run(
            words, stderr=stream, stdout=subprocess.DEVNULL, env=alone, check=False
        ).returncode
    started: int | None = None
    for line in log.read_text().splitlines() if log.exists() else ():
        entry = json.loads(line)
        started = entry["input"]
        if "outcome" in entry:
            tally.outcomes[entry["outcome"]] += 1
            started = None
        if entry.get("finding"):
            _keep(target, entry["input"], entry["finding"], out, seed, tally)
    if code == 0:
        return inputs.stop
    if started is None:
        raise RuntimeError(f"the worker ended with {code} before an input:\n{errors.read_text()[-3000:]}")
    tally.outcomes["died"] += 1
    reason = f"the process ended with {code}\n{errors.read_text(errors='replace')[-6000:]}"
    _keep(target, started, reason, out, seed, tally)
    return started + 1


def again(target: str, number: int, seed: int) -> str:
    """Return the command that tries one input again."""
    return f"python tools/fuzz.py {target} --seed {seed} --first {number} --count 1"


def _keep(target: str, number: int, reason: str, out: Path, seed: int, tally: Tally) -> None:
    tally.findings[number] = reason
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{target}-{seed}-{number}.txt").write_text(f"{again(target, number, seed)}\n\n{reason}")


def record(path: Path, row: dict[str, Any]) -> None:
    """Add a run to the rows of a result file, which other processes may be doing too.

    Args:
        path: the file, as those in benchmarks/results; made where there is none.
        row: what was run and what came of it.
    """
    from sparseflow.bench.result import run_meta
    from sparseflow.runtime.dispatch.cpu_identity import cpu_model

    meta = run_meta(cpu_model(), " ".join(["python", "tools/fuzz.py", *sys.argv[1:]]))
    with path.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        text = stream.read()
        rows = [*(json.loads(text)["rows"] if text else ()), {**row, "meta": meta}]
        devices = "; ".join(sorted({row["meta"]["device"] for row in rows}))
        runs = [{name: row["meta"][name] for name in ("date", "command")} for row in rows]
        parts = [{"runs": [run], "rows": 1} for run in runs]
        stream.truncate(0)
        json.dump({"meta": {**meta, "device": devices, "parts": parts}, "rows": rows}, stream, indent=1)
        stream.write("\n")


def main() -> int:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=math.inf)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    target, seed, inputs = options.target, options.seed, range(options.first, options.first + options.count)
    memory, start = Path("/dev/shm"), time.monotonic()
    print(f"{target}: inputs {inputs.start} to {inputs.stop - 1} of seed {seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        limit = start + options.deadline
        tally = fuzz(target, inputs, seed, options.out, Path(scratch), jobs=options.jobs, deadline=limit)
    found = {"inputs": tally.inputs, "findings": sorted(tally.findings)}
    print(json.dumps({"seed": seed, **found, **tally.outcomes}))
    for number in sorted(tally.findings):
        print(f"again: {again(target, number, seed)}", file=sys.stderr)
    if options.results:
        run = {"target": target, "seed": seed, "first": inputs.start}
        cost = {"seconds": round(time.monotonic() - start), "jobs": options.jobs}
        record(options.results, {**run, **found, "outcomes": tally.outcomes, **cost})
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
