"""vLLM's engine, dense against 2:4, on a Llama-3-8B shape: `python benchmarks/bench_vllm.py`.

The weights are made up. One engine after the other, each in a process of its own, in turn for every round;
rows have the medians of the rounds. The sparse side first compares its layers' products with float64.
`--tiny` runs a small shape on the CPU, as a test of the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _measure
from _vllm_side import LARGEST_ERROR, LLAMA_8B, TINY

SIDES = ("dense", "sparse")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 64], help="of decode")
    parser.add_argument("--context", type=int, default=1024, help="tokens before the decoded ones")
    parser.add_argument("--steps", type=int, default=64, help="decode steps for each figure")
    parser.add_argument("--prompts", nargs="+", default=["1x2048", "4x2048"], help="BATCHxLENGTH of prefill")
    parser.add_argument("--repeats", type=int, default=5, help="prompts for each figure of prefill")
    parser.add_argument("--rounds", type=int, default=1, help="engines of each side")
    parser.add_argument("--policy", choices=("auto", "sparse"), default="auto", help="of our layers")
    parser.add_argument("--limit", type=int, default=150, help="seconds for each engine")
    parser.add_argument("--tiny", action="store_true", help="a small shape on the CPU")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    args.prompts = [tuple(map(int, text.split("x"))) for text in args.prompts]
    if args.tiny:
        args.batches, args.context, args.prompts, args.steps = [1, 2], 16, [(1, 32), (2, 32)], 8
    return args


def run_side(args: argparse.Namespace, side: str, folder: Path) -> dict[str, Any]:
    """Measure one engine in a process of its own."""
    out = folder / f"{side}.json"
    options = {**vars(args), "side": side, "folder": str(folder), "out": str(out), "results": None}
    script = Path(__file__).with_name("_vllm_side.py")
    subprocess.run([sys.executable, str(script), json.dumps(options)], check=True, timeout=args.limit)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def rows_of(rounds: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of the result file: the medians of both sides' rounds."""
    load = {side: statistics.median(found["load_s"] for found in each) for side, each in rounds.items()}
    rows = []
    for phase in ("decode", "prefill"):
        for place, (batch, seq, _) in enumerate(rounds["dense"][0][phase]):
            ms = {
                side: statistics.median(found[phase][place][2] for found in each)
                for side, each in rounds.items()
            }
            rows.append(
                {
                    "format": "2:4",
                    "phase": phase,
                    "batch": batch,
                    "seq": seq,
                    "dense_ms": ms["dense"],
                    "dense_same_ms": None,  # of fp8 and int4
                    "ours_ms": ms["sparse"],
                    "load_s": load["sparse"],
                    "dense_load_s": load["dense"],
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["phase    batch×seq   dense ms   2:4 ms   speed-up"]
    for row in rows:
        place, ratio = f"{row['batch']}×{row['seq']}", row["dense_ms"] / row["ours_ms"]
        lines.append(
            f"{row['phase']:8} {place:9} {row['dense_ms']:10.2f} {row['ours_ms']:8.2f} {ratio:9.2f}×"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    args = parse(argv)
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "config.json").write_text(json.dumps(TINY if args.tiny else LLAMA_8B))
        for _ in range(args.rounds):
            for side in SIDES:
                rounds[side].append(run_side(args, side, folder))
    import torch
    import vllm

    last = rounds["sparse"][-1]
    device = _measure.cpu_name() if args.tiny else torch.cuda.get_device_name()
    head = _measure.meta(
        device,
        vllm=vllm.__version__,
        rounds=args.rounds,
        layers=last["layers"],
        largest_error=last["error"],
        kv_tokens={side: each[-1]["kv_tokens"] for side, each in rounds.items()},
    )
    rows = rows_of(rounds)
    name = "vllm_tiny" if args.tiny else _measure.gpu_name("vllm", device)
    path = _measure.write(name, head, rows, args.results)
    print(*last["layers"], table(rows), sep="\n")
    print(f"largest error {last['error']:.2e}; KV tokens {head['kv_tokens']}; {path}")
    return int(last["error"] > LARGEST_ERROR["float32" if args.tiny else "bfloat16"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
