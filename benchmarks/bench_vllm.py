"""vLLM's engine on a Llama-3-8B shape, dense and 2:4, in bfloat16 and fp8: `python benchmarks/bench_vllm.py`.

The weights are made up. Every engine is a process of its own. All start at once and stay; then they measure
one after the other, in turn for every round, and rows have the medians of the rounds. Where several GPUs are
visible the engines are dealt to them in turn: bfloat16's to the first of two, fp8's to the second. `--apart`
has one engine at a time, with all of the GPU's memory. Sparse engines first compare their layers' products
with float64. An engine that fails is named in the file, with the end of its log, and the others go on; the
file is written after every round. `--tiny` runs a small shape on the CPU, as a test of the script.
"""

from __future__ import annotations

import argparse
import json
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _measure
from _gpus import a_turn, gpu_of, visible_gpus
from _vllm_side import COLUMNS, LLAMA_8B, QUANTIZATION, TINY, UTILIZATION

Found = dict[str, Any]


class Side:
    """One engine.

    Attributes:
        name: a key of `QUANTIZATION`.
        gpu: the only one that it sees, if there are several.
        about: what it said when it had started.
        rounds: what it measured in each.
        failure: why it does no more; empty while it does.
    """

    script = "_vllm_side.py"
    """What its process runs."""

    def __init__(self, name: str, args: argparse.Namespace, folder: Path, gpu: str | None) -> None:
        self.name, self.gpu, self.about, self.failure = name, gpu, dict[str, Any](), ""
        self.rounds: list[Found] = []
        self._log = (args.logs or folder) / f"{name.replace(':', '')}.log"
        options = {**vars(args), "side": name, "folder": str(folder), "gpu": gpu, "results": None}
        options["logs"] = None
        script = Path(__file__).with_name(self.script)
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("wb"),
        )

    def wait(self, seconds: float) -> None:
        """Wait until it has started."""
        self.about = self._answer(seconds) or {}

    def run(self, seconds: float, order: str = "") -> None:
        """Have it measure once, or do what its script calls by another name."""
        assert self._process.stdin is not None, "piped"
        try:
            self._process.stdin.write(f"{order}\n".encode())
            self._process.stdin.flush()
        except OSError:  # it ended since; the answer says so
            pass
        if (found := self._answer(seconds)) is not None:
            self.rounds.append(found)

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None, "piped"
        try:
            self._process.stdin.close()
            self._process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _answer(self, seconds: float) -> Found | None:
        if self.failure:
            return None
        out = self._process.stdout
        assert out is not None, "piped"
        ready, _, _ = select.select([out], [], [], max(0.0, seconds))
        line = out.readline() if ready else b""
        if line:
            found: Found = json.loads(line)
            return found
        self.failure = "it ended" if ready else f"no answer within {seconds:.0f} s"
        if not ready:
            self._process.kill()
        tail = self._log.read_text(errors="replace").splitlines()[-25:]
        self.failure = "\n".join([f"{self.failure}; its log ends:", *tail])
        print(f"{self.name}: {self.failure}", flush=True)
        return None


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sides", nargs="+", choices=list(QUANTIZATION), help="engines; all but columns by default"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 64], help="of decode")
    parser.add_argument("--context", type=int, default=1024, help="tokens before the decoded ones")
    parser.add_argument("--steps", type=int, default=64, help="decode steps for each figure of a round")
    parser.add_argument("--prompts", nargs="+", default=["1x2048", "4x2048"], help="BATCHxLENGTH of prefill")
    parser.add_argument("--repeats", type=int, default=5, help="prompts for each figure of a round")
    parser.add_argument("--rounds", type=int, default=3, help="of each engine")
    parser.add_argument("--policy", choices=("auto", "sparse"), default="auto", help="of our layers")
    parser.add_argument("--apart", action="store_true", help="one engine at a time, not all side by side")
    parser.add_argument(
        "--limit", type=int, default=180, help="seconds for an engine to start, or for a round"
    )
    parser.add_argument("--seconds", type=int, default=240, help="after which no further round begins")
    parser.add_argument("--logs", type=Path, help="folder for the engines' logs; they are not kept otherwise")
    parser.add_argument("--tiny", action="store_true", help="a small shape on the CPU")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    args.prompts = [tuple(map(int, text.split("x"))) for text in args.prompts]
    if args.tiny:
        args.batches, args.context, args.prompts, args.steps = [1, 2], 16, [(1, 32), (2, 32)], 8
    args.sides = args.sides or (
        ["dense", "2:4"] if args.tiny else [name for name in QUANTIZATION if name != COLUMNS]
    )
    return args


@contextmanager
def started(
    names: Sequence[str], args: argparse.Namespace, folder: Path, kind: type[Side] = Side
) -> Iterator[list[Side]]:
    """Run engines side by side."""
    sides: list[Side] = []
    try:
        gpus = [] if args.tiny or args.apart else visible_gpus()
        sides += [kind(name, args, folder, gpu_of(place, gpus)) for place, name in enumerate(names)]
        end = time.monotonic() + args.limit
        for side in sides:
            side.wait(end - time.monotonic())
            if not side.failure:
                print(f"{side.name}: started in {side.about['start_s']:.0f} s", flush=True)
        yield sides
    finally:
        for side in sides:
            side.end()


def run(args: argparse.Namespace, folder: Path) -> Iterator[list[Side]]:
    """Start engines and measure; yield all that were started after every round."""
    begun, done = time.monotonic(), list[Side]()
    for names in [[name] for name in args.sides] if args.apart else [args.sides]:
        with started(names, args, folder) as sides:
            done += sides
            for _ in range(args.rounds):
                start = time.monotonic()
                with a_turn():
                    for side in sides:
                        side.run(args.limit)
                yield done
                now = time.monotonic()
                if not args.apart and now + (now - start) - begun > args.seconds:
                    print(f"no further round: it would end after {args.seconds} s")
                    break


def figures(side: Side | None, phase: str, batch: int, seq: int) -> list[float]:
    """Return the milliseconds of each round; none of what a side doesn't measure."""
    rounds = side.rounds if side is not None else []
    return [ms for found in rounds for n, length, ms in found[phase] if (n, length) == (batch, seq)]


def middle(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def rows_of(sides: list[Side], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the result file: the medians of the rounds, and each of them."""
    by_name = {side.name: side for side in sides}
    dense = by_name.get("dense")
    rows = []
    for name in (name for name in by_name if QUANTIZATION[name] == "sparseflow"):
        ours = by_name[name]
        same = by_name.get("dense-fp8") if name == "2:4-fp8" else None
        shapes = [("decode", n, args.context) for n in args.batches]
        shapes += [("prefill", n, length) for n, length in args.prompts]
        for phase, batch, seq in shapes:
            each = [figures(side, phase, batch, seq) for side in (dense, same, ours)]
            row = {"format": name, "phase": phase, "batch": batch, "seq": seq}
            row |= zip(("dense_ms", "dense_same_ms", "ours_ms"), map(middle, each), strict=True)
            row |= zip(("dense_each", "dense_same_each", "ours_each"), each, strict=True)
            for figure in ("load_s", "weight_bytes", "kv_tokens"):
                row[figure] = ours.about.get(figure)
                row[f"dense_{figure}"] = dense.about.get(figure) if dense is not None else None
            row["own_gpus"] = dense is not None and dense.gpu != ours.gpu
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """What is printed: milliseconds, and how often the dense times hold ours."""
    lines = ["format   phase    batch×seq   dense ms   same bits   ours ms   over dense   over same bits"]
    for row in rows:
        dense, same, ours = row["dense_ms"], row["dense_same_ms"], row["ours_ms"]
        cells = [f"{ms:.2f}" if ms is not None else "–" for ms in (dense, same, ours)]
        ratios = [f"{ms / ours:.2f}×" if ms and ours else "–" for ms in (dense, same)]
        place = f"{row['batch']}×{row['seq']}"
        lines.append(
            f"{row['format']:8} {row['phase']:8} {place:9} {cells[0]:>10} {cells[1]:>11} {cells[2]:>9} "
            f"{ratios[0]:>12} {ratios[1]:>16}"
        )
    return "\n".join(lines)


def about(sides: list[Side]) -> Iterator[str]:
    """Yield a line for each engine: loading, memory, what its layers run."""
    for side in sides:
        if side.failure:
            yield f"{side.name}: failed"
            continue
        found = side.about
        gib = f", weights {found['weight_bytes'] / 2**30:.2f} GiB" if "weight_bytes" in found else ""
        tokens = found.get("kv_tokens", found["engine_kv_tokens"])
        error = f", largest error {found['error']:.1e}" if "error" in found else ""
        yield f"{side.name}: loaded in {found['load_s']:.1f} s{gib}, KV tokens {tokens}{error}"
        yield from (f"  {line}" for line in found.get("layers", []))


def write(sides: list[Side], args: argparse.Namespace) -> Path:
    """Write the result file."""
    import torch
    import vllm

    device = _measure.cpu_name() if args.tiny else torch.cuda.get_device_name()
    head = _measure.meta(
        device,
        vllm=vllm.__version__,
        together=not args.apart,
        gpus={side.name: side.gpu for side in sides},
        rounds={side.name: len(side.rounds) for side in sides},
        utilization=UTILIZATION,
        engines={side.name: side.about for side in sides},
        failed={side.name: side.failure for side in sides if side.failure},
    )
    columns = COLUMNS in args.sides and not {"2:4", "2:4-fp8"} & set(args.sides)
    bench = "vllm_columns" if columns else "vllm"
    name = f"{bench}_tiny" if args.tiny else _measure.gpu_name(bench, device)
    return _measure.write(name, head, rows_of(sides, args), args.results)


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.logs:
        args.logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "config.json").write_text(json.dumps(TINY if args.tiny else LLAMA_8B))
        sides: list[Side] = []
        for sides in run(args, folder):
            path = write(sides, args)
    print(*about(sides), table(rows_of(sides, args)), path, sep="\n")
    return int(any(side.failure for side in sides))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
