"""The kernels of a prefill, dense by inductor beside ours: `python benchmarks/kernel_tables.py --seq 2048`.

With TORCH_LOGS=output_code inductor writes both its programs to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import _measure
import _models
import torch

import sparseflow as sf
from sparseflow.profiling import Profile, Side


def lines(side: Side, us: float) -> list[str]:
    """The kernels that take `us` microseconds or more, the longest first; what the others take together."""
    shown = [kernel for kernel in side.kernels if kernel.us >= us]
    rest = side.us - sum(kernel.us for kernel in shown)
    rows = [f"{k.us:9.1f} us  {k.calls:5.1f} ×  {k.kind:<12}{k.name[:110]}" for k in shown]
    return [f"{side.title}: {side.us:.0f} us in kernels, {side.seconds * 1e6:.0f} us a call", *rows,
            f"{rest:9.1f} us  in {len(side.kernels) - len(shown)} others"]  # fmt: skip


def profiled(args: argparse.Namespace) -> Profile:
    """A pruned Llama of a few layers, both ways."""
    place = _models.Place(args.device, torch.bfloat16)
    model = _models.llama("8b" if args.device == "cuda" else "tiny", place, args.layers)
    sf.prune(model, progress=False)
    ids = _models.tokens(args.batch, args.seq, model.config.vocab_size, args.device)
    inputs = {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}
    options = {"format": args.format, "inner": "inductor", "progress": False}
    return sf.profile(model, (), inputs, calls=args.calls, seconds=args.seconds, **options)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--format", choices=["2:4", "2:4-fp8"], default="2:4")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--calls", type=int, default=20, help="that a profile is the mean of")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing without profiler")
    parser.add_argument("--us", type=float, default=1.0, help="leave out kernels that take less in a call")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    with torch.no_grad():
        found = profiled(args)
    print(found.table())
    print("\n\n".join("\n".join(lines(side, args.us)) for side in (found.dense, found.compiled)))
    args.results.mkdir(exist_ok=True, parents=True)
    name = f"kernels_{args.batch}x{args.seq}{'_fp8' if args.format == '2:4-fp8' else ''}.json"
    (args.results / name).write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
