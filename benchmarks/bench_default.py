"""What a user gets who asks for nothing: `python benchmarks/bench_default.py`.

The caches are empty at the start, models have 2:4 weights, and `sf.compile(model)` has no option (decoding
has ``mode="reduce-overhead"``). Both sides run in one process, in turn; each row is written at once.

- llama: Llama-3-8B's shape of 4 layers: layers sparse, seconds that choosing adds to the first output,
  prefill and decoding over torch.compile. On a CPU a decoder of 4 layers, hidden size 1024, over eager.
- models: small models at several batch sizes, over the better of eager and torch.compile with CUDA graphs.
- layers: their distinct layers, M = 1 … 8192, by device time over dense (GPUs only).
- quick (``--quick-against-full``): what quick tuning chooses beside what full tuning does (GPUs only).
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import _default_models
import _measure
import _models
import torch
from _limits import limited
from _model_bench import Bench

LIMITS = {"llama": 180, "models": 360, "layers": 180, "quick": 300}
"""Seconds for each part."""
MODELS = ("bert-base", "vit-b", "gpt2", "qwen3-0.6b", "minilm", "tinyllama")
BATCHES = {"cuda": (1, 8, 64), "cpu": (1, 4)}


def parts(args: argparse.Namespace) -> dict[str, Callable[[Bench], None]]:
    """What runs, in order."""
    found: dict[str, Callable[[Bench], None]] = {
        "llama": _default_models.llama,
        "models": functools.partial(_default_models.models, names=args.models, most_layers=args.most_layers),
    }
    if args.device == "cuda":
        from _default_layers import layers, quick_against_full

        found |= {"layers": layers, "quick": quick_against_full}
    return {name: part for name, part in found.items() if name in args.parts}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=device)
    parser.add_argument("--parts", nargs="+", choices=("llama", "models", "layers"), help="all by default")
    parser.add_argument("--quick-against-full", action="store_true", help="that part, and --parts if given")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, help="of the models; 1 8 64, on a CPU 1 4")
    parser.add_argument("--most-layers", type=int, default=12, help="of the models; deeper ones are cut")
    parser.add_argument("--limit", type=int, help=f"seconds for each part instead of {LIMITS}")
    parser.add_argument("--seconds", type=float, default=1.5, help="of measuring for each row of a model")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU, to test the script")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    parser.add_argument("--first-output", choices=("default", "off"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.device = "cpu" if args.tiny else args.device
    quick = ["quick"] if args.quick_against_full else []
    args.parts = [*(args.parts or ([] if quick else ("llama", "models", "layers"))), *quick]
    return args


def prepared(args: argparse.Namespace) -> Bench:
    """The run that the arguments ask for."""
    torch.manual_seed(0)
    batches = tuple(args.batches or BATCHES[args.device])
    if args.device == "cpu":
        place, name = _models.Place("cpu", torch.float32), "default_tiny" if args.tiny else "default_cpu"
        head = _measure.meta(_measure.cpu_name())
        return Bench(place, args.tiny, 0.1 if args.tiny else args.seconds, name, head, args.results, batches)
    from sparseflow.runtime import gpu
    from sparseflow.runtime.tuning import GpuMachine

    gpu.require()
    machine = GpuMachine.here(0)
    head = _measure.meta(machine.gpu, machine=vars(machine))
    place, name = _models.Place("cuda", torch.bfloat16), _measure.gpu_name("default", machine.gpu)
    return Bench(place, False, args.seconds, name, head, args.results, batches)


def run(bench: Bench, args: argparse.Namespace) -> int:
    """Run the parts and return the exit status."""
    failed = False
    for name, part in parts(args).items():
        start = time.perf_counter()
        try:
            with torch.no_grad(), limited(args.limit or LIMITS[name], name):
                part(bench)
        except Exception:  # what the other parts measure is worth having
            failed = True
            traceback.print_exc()
        bench.release()
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    missed = [row for row in bench.rows if not row["met"]]
    print(f"{len(bench.rows)} rows, {len(missed)} miss their target")
    return int(failed)


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.first_output:  # a child, whose parent chose the caches
        options = {} if args.first_output == "default" else {"tune": args.first_output}
        print(json.dumps({"seconds": _default_models.first_output(prepared(args), **options)}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        _default_models.fresh_caches(Path(folder))
        return run(prepared(args), args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
