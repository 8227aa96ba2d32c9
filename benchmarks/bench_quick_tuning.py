"""Quick tuning on a GPU, as a first user meets it: `python benchmarks/bench_quick_tuning.py`.

Each run pretends to know less than is shipped (``--known``): "shapes": the GPU, but none of these layers;
"borrowed": those other layers as of another GPU of the architecture; "nothing": no table at all.

- "first output": a Llama-3-8B of four layers with 2:4 weights, compiled with no option in a process of its
  own with empty caches, beside the same without tuning.
- "beside full": its layers tuned quickly and fully; at every M what dispatch runs by either, timed in turns
  with dense by replaying CUDA graphs over rotating weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _measure
import _models
import torch
from _leave_one_out import geometric_mean

import sparseflow as sf
from sparseflow.runtime import gpu, ops
from sparseflow.runtime.dispatch import Policy, choose_by_thresholds
from sparseflow.runtime.tuning import DEFAULT_M, GpuMachine, dense_opponents, gpu_table, lookup, missing
from sparseflow.runtime.tuning.layers import Layer, inputs
from sparseflow.runtime.tuning.point import Effort
from sparseflow.runtime.tuning.policies import timed
from sparseflow.runtime.tuning.replay import Replay, in_turns
from sparseflow.support.arguments import Tune

SHAPES = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
KNOWN = ("shapes", "borrowed", "nothing")
LAYERS, BATCH, TOKENS = 4, 1, 2048
MOST_SECONDS, MOST_OVER_FULL, FEWEST_SPARSE = 20.0, 1.05, 28
ROUNDS = 9

Row = dict[str, Any]
_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here


def pretend(known: str, folder: Path) -> None:
    """Let tables know only so much, by a folder of shipped tables."""
    for path in sorted(gpu_table.SHIPPED.glob("*.json")) if known != "nothing" else ():
        document = json.loads(path.read_text())
        document["rows"] = [row for row in document["rows"] if (row["n"], row["k"]) not in SHAPES]
        if known == "borrowed":
            document["machine"]["gpu"] += ", another"
        (folder / path.name).write_text(json.dumps(document))
    gpu_table.SHIPPED = folder


def first_output(tune: Tune) -> Row:
    """Compile the model and call it once, in this process."""
    spent = []
    quickly = missing.measure_quickly

    def watched(*args: Any) -> Any:
        start = time.perf_counter()
        found = quickly(*args)
        spent.append(time.perf_counter() - start)
        return found

    missing.measure_quickly = watched  # type: ignore[assignment]
    model = _models.llama("8b", _models.Place("cuda", torch.bfloat16), LAYERS)
    sf.prune(model, "magnitude", progress=False)
    ids = _models.tokens(BATCH, TOKENS, model.config.vocab_size, "cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.no_grad():
        compiled = sf.compile(model, tune=tune)
        compiled(ids)
    torch.cuda.synchronize()
    layers = compiled.report.layers
    return {
        "first_output_s": round(time.perf_counter() - start, 2),
        "tuning_s": round(sum(spent), 2),
        "layers": len(layers),
        "sparse": sum(layer.decision == "sparse" for layer in layers),
        "dense_because": sorted({layer.reason for layer in layers if layer.decision != "sparse"}),
    }


def apart(known: str, tune: str) -> Row:
    """The same in a process of its own, with empty caches."""
    with tempfile.TemporaryDirectory() as caches:
        env = {
            **os.environ,
            "SPARSEFLOW_CACHE_DIR": f"{caches}/tables",
            "TORCHINDUCTOR_CACHE_DIR": f"{caches}/i",
        }
        command = [sys.executable, __file__, "--known", known, "--first", tune]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def compiled_rows(known: str) -> list[Row]:
    """What quick tuning adds to the first output."""
    without, quick = apart(known, "off"), apart(known, "quick")
    added = round(quick["first_output_s"] - without["first_output_s"], 2)
    met = added <= MOST_SECONDS and quick["sparse"] >= FEWEST_SPARSE
    return [
        {
            "what": "first output",
            "known": known,
            **quick,
            "without_tuning_s": without["first_output_s"],
            "added_s": added,
            "met": met,
        }
    ]


def policy(shape: tuple[int, int], dtype: str, folder: Path) -> Policy:
    """What the points of a folder justify, with a dense copy."""
    points = lookup(dtype, *shape, GpuMachine.here(), folder=folder)
    return choose_by_thresholds(map(timed, points), "fast")


def side(layer: Layer, x: torch.Tensor, chosen: Policy, pool: Any) -> Replay | None:
    """The operator by a policy; None where it runs densely."""
    if chosen.choice(len(x)).is_dense:
        return None
    codes = chosen.to_ints()
    gpu.prepare(layer.packed[0], [len(x)], codes)

    def ours(copy: int) -> torch.Tensor:
        weight = layer.packed[copy]
        y: torch.Tensor = ops.linear(
            x, weight.values, weight.positions, None, None, weight.in_features, "none", codes
        )
        return y

    return Replay(ours, layer.copies, pool)


def cell(layer: Layer, m: int, by: dict[Effort, Policy]) -> Row:
    """The times of dense and of what either tuning chose, at one M."""
    x, pool = inputs(m, layer.packed[0].in_features, torch.bfloat16), torch.cuda.graph_pool_handle()
    chosen = {name: side(layer, x, found, pool) for name, found in by.items()}
    ours = {name: replay for name, replay in chosen.items() if replay is not None}
    sides = [*dense_opponents.dense(layer, x, pool), *ours.values()]
    for one in sides:
        one.forget()
    times = in_turns(sides, ROUNDS, lambda _: None)
    dense_us = min(times[: len(sides) - len(ours)])
    us = dict.fromkeys(chosen, dense_us) | dict(zip(ours, times[len(sides) - len(ours) :], strict=True))
    names = {f"{name}_runs": str(found.choice(m)) for name, found in by.items()}
    return {"M": m, "dense_us": dense_us, **{f"{name}_us": t for name, t in us.items()}, **names}


def beside_full(known: str) -> list[Row]:
    """A row for each shape and M, then one for all."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as quick, tempfile.TemporaryDirectory() as full:
        folders: dict[Effort, Path] = {"quick": Path(quick), "full": Path(full)}
        took: dict[Effort, float] = {}
        for effort, folder in folders.items():
            start = time.perf_counter()
            sf.tune(SHAPES, effort=effort, folder=folder, progress=False)
            took[effort] = round(time.perf_counter() - start, 1)
        with torch.inference_mode(), _CUDA.stream(_CUDA.Stream()):  # the default stream can't be captured
            for n, k in SHAPES:
                by = {name: policy((n, k), "bfloat16", folder) for name, folder in folders.items()}
                layer = Layer.random(n, k, torch.bfloat16)
                head = {"what": "beside full", "known": known, "N": n, "K": k}
                rows += [head | cell(layer, m, by) for m in DEFAULT_M]
                torch.cuda.empty_cache()
    over = geometric_mean(row["quick_us"] / row["full_us"] for row in rows)
    worst = min(row["dense_us"] / row["quick_us"] for row in rows)
    total = {"what": "beside full", "known": known, "over_full": round(over, 4), "worst": round(worst, 3)}
    seconds = {f"{effort}_s": seconds for effort, seconds in took.items()}
    return [*rows, {**total, **seconds, "met": over <= MOST_OVER_FULL and took["quick"] <= MOST_SECONDS}]


def main(argv: Sequence[str]) -> int:
    """Write the rows; returns 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--known", choices=KNOWN, action="append", help="may be repeated; all by default")
    parser.add_argument("--parts", choices=("first", "beside"), nargs="+", default=["first", "beside"])
    parser.add_argument("--first", choices=("quick", "off"), help="one first output, in this process")
    parser.add_argument("--out", type=Path, default=_measure.RESULTS)
    options = parser.parse_args(argv)
    gpu.require()
    rows: list[Row] = []
    shipped = gpu_table.SHIPPED
    for known in options.known or KNOWN:
        with tempfile.TemporaryDirectory() as folder:
            gpu_table.SHIPPED = shipped
            pretend(known, Path(folder))
            if options.first:
                print(json.dumps(first_output(options.first)))
                return 0
            rows += compiled_rows(known) if "first" in options.parts else []
            rows += beside_full(known) if "beside" in options.parts else []
    machine = GpuMachine.here(0)
    head = _measure.meta(machine.gpu, machine=vars(machine))
    print(_measure.write(_measure.gpu_name("quick_tuning", machine.gpu), head, rows, options.out))
    told = [row for row in rows if "met" in row]
    for row in told:
        print(row)
    return int(not all(row["met"] for row in told))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
