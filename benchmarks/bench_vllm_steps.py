"""vLLM's steps that read a prompt beside running decodes: `python benchmarks/bench_vllm_steps.py`.

Such a step has more rows than vLLM captures as a graph, so that the host launches every kernel. Dense and
2:4, on the shape and with the made-up weights of bench_vllm.py, each in a process of its own; both start at
once and are measured in turn. The scheduler runs ahead only with `--ahead`, as a server's does; without it a
step is timed whole. Prompts are up to 60 tokens longer than asked, by another amount each time, as rows of a
server's steps differ. The first step of a kind is apart: who multiplies a number of rows first pays for what
is loaded or built for it. `host` is the time in which the model's forward pass is launched, `device` that
from its first kernel to its last. With `--profile` torch's profiler says what one step consists of. `--tiny`
runs a small shape on the CPU, as a test of the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _measure
from _vllm_side import LLAMA_8B, TINY
from _vllm_steps import SETTLE, SPREAD
from bench_vllm import Side, started

SIDES = {"2:4": ("dense", "2:4"), "2:4-fp8": ("dense-fp8", "2:4-fp8")}
"""The engines that are compared, by our layers' format."""

CAPTURED = [1, 2, 4, *range(8, 65, 8)]
"""The sizes of CUDA graphs, as in bench_serve.py; the last is of so many sequences."""

STARTING = 0.8
"""The share of the limit in which engines start."""

TIMES = ("ms", "host_ms", "device_ms")


class StepSide(Side):
    """An engine whose single steps are timed."""

    script = "_vllm_steps.py"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--format", choices=list(SIDES), default="2:4", help="of our layers; dense has its bits"
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["512+0", "512+8", "512+32", "512+63", "1024+32", "2048+0"],
        help="PROMPT+DECODES of each step",
    )
    parser.add_argument("--captured", nargs="+", type=int, default=[], help="further sizes of CUDA graphs")
    parser.add_argument("--context", type=int, default=200, help="tokens before the decoded ones")
    parser.add_argument("--repeats", type=int, default=12, help="steps of each kind in a round")
    parser.add_argument("--rounds", type=int, default=2, help="of each engine")
    parser.add_argument(
        "--ahead", action="store_true", help="let the scheduler run a step ahead, as a server's"
    )
    parser.add_argument("--policy", choices=("auto", "sparse"), default="auto", help="of our layers")
    parser.add_argument("--limit", type=float, default=150, help="seconds for all of it")
    parser.add_argument("--profile", type=Path, help="folder for tables of what a step consists of")
    parser.add_argument("--logs", type=Path, help="folder for the engines' logs; they are not kept otherwise")
    parser.add_argument("--tiny", action="store_true", help="a small shape on the CPU")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    if args.tiny:
        args.cases, args.context, args.repeats = ["40+0", "40+2"], 16, 3
    args.cases = [tuple(map(int, text.split("+"))) for text in args.cases]
    # What bench_vllm's engines are told, so that a step takes 8192 tokens, as a server's.
    args.batches, args.apart = [1, 2] if args.tiny else CAPTURED, False
    args.prompts = [(1, length + SPREAD) for length, _ in args.cases] + ([] if args.tiny else [(4, 2048)])
    args.steps = SETTLE + 2 * args.repeats + 8
    args.engine_options = {} if args.ahead else {"async_scheduling": False}
    if not args.tiny:
        args.engine_options["compilation_config"] = {"cudagraph_capture_sizes": [*CAPTURED, *args.captured]}
    return args


def measure(args: argparse.Namespace, folder: Path) -> list[Side]:
    """Start engines and measure them in turn, as long as there is time."""
    end = time.monotonic() + args.limit
    options = argparse.Namespace(**{**vars(args), "limit": args.limit * STARTING, "profile": None})
    with started(SIDES[args.format], options, folder, StepSide) as sides:
        took = 0.0
        for _ in range(args.rounds):
            start = time.monotonic()
            if start + took > end:
                break
            for side in sides:
                side.run(end - time.monotonic())
            took = time.monotonic() - start
        for side in sides if args.profile else ():
            path = args.profile / f"steps-{side.name.replace(':', '')}.txt"
            side.run(end - time.monotonic(), f"profile {path.resolve()}")
    return sides


def steps_of(side: Side, place: int) -> list[dict[str, Any]]:
    """Return the steps of a case, of all rounds."""
    return [step for found in side.rounds if "cases" in found for step in found["cases"][place]["timed"]]


def figures(side: Side, place: int) -> dict[str, Any]:
    """Return the times of a case: of the first step, and the median and the worst of the others."""
    first, *later = steps_of(side, place)
    found: dict[str, Any] = {"first_ms": first["ms"], "worst_ms": max(step["ms"] for step in later)}
    for name in TIMES:
        times = [step[name] for step in later if step[name] is not None]
        found[name] = statistics.median(times) if times else None
    found |= {"each": [(step["prompt"], step["ms"]) for step in later]}
    found |= {"built_first": first["built"], "built": sum(step["built"] for step in later)}
    return found


def rows_of(sides: Sequence[Side], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of the result file; none unless both sides were measured."""
    rows = []
    for place, (length, decodes) in enumerate(args.cases if all(side.rounds for side in sides) else ()):
        row: dict[str, Any] = {"format": args.format, "prompt": length, "decodes": decodes}
        for key, side in zip(("dense", "ours"), sides, strict=True):
            row |= {f"{key}_{name}": value for name, value in figures(side, place).items()}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """What is printed: of each side the first step, the median, host and device, and the worst."""
    lines = [f"{'prompt+decodes':15}{'side':7}" + "".join(f"{name:>10}" for name in HEADINGS)]
    for row in rows:
        for key in ("dense", "ours"):
            cells = [row[f"{key}_{name}"] for name in HEADINGS.values()]
            shown = "".join(f"{'–' if cell is None else format(cell, '.2f'):>10}" for cell in cells)
            lines.append(f"{row['prompt']}+{row['decodes']:<11}{key:7}{shown}  {row[f'{key}_built']} built")
        lines.append(f"{'':15}{row['dense_ms'] / row['ours_ms']:.2f}×")
    return "\n".join(lines)


HEADINGS = {
    "first": "first_ms",
    "median": "ms",
    "host": "host_ms",
    "device": "device_ms",
    "worst": "worst_ms",
}


def write(sides: Sequence[Side], args: argparse.Namespace) -> Path:
    """Write the result file."""
    import torch
    import vllm

    device = _measure.cpu_name() if args.tiny else torch.cuda.get_device_name()
    head = _measure.meta(
        device,
        vllm=vllm.__version__,
        captured=[*args.batches, *args.captured],
        context=args.context,
        spread=SPREAD,
        rounds={side.name: len([found for found in side.rounds if "cases" in found]) for side in sides},
        engines={side.name: side.about for side in sides},
        failed={side.name: side.failure for side in sides if side.failure},
    )
    bench = "vllm_steps_fp8" if args.format == "2:4-fp8" else "vllm_steps"
    name = f"{bench}_tiny" if args.tiny else _measure.gpu_name(bench, device)
    return _measure.write(name, head, rows_of(sides, args), args.results)


def main(argv: list[str]) -> int:
    args = parse(argv)
    for folder in filter(None, (args.logs, args.profile)):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "config.json").write_text(json.dumps(TINY if args.tiny else LLAMA_8B))
        sides = measure(args, folder)
        path = write(sides, args)
    print(table(rows_of(sides, args)), path, sep="\n")
    return int(any(side.failure for side in sides))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
