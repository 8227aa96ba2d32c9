"""A whole Llama-3.2-3B-shaped model with contextual MLPs, dense eager beside it, on the CPU or a GPU.

Random weights and predictors; each layer's share of active neurons is its own, 24.6% on average. With fewer
than the 28 layers the vocabulary shrinks by as much, so that the head keeps its share of the bytes. Both
sides answer the same prompts in turns, in one process, over static caches: time to first token, then token
by token.

    python benchmarks/bench_contextual_model.py [--layers 28] [--dtype float32] [--device cpu]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from _measure import RESULTS, cpu_name, meta, write

from sparseflow.bench.contextual import bench_contextual, table
from sparseflow.bench.contextual_config import BenchConfig
from sparseflow.support.progress import progress_bars

LAYERS, VOCAB = 28, 128256
MEAN, SPREAD = 0.246, 0.1
TARGET = 2.0


def rates(layers: int) -> tuple[float, ...]:
    """Active shares that fall from the first layer to the last, with the mean that is wanted."""
    if layers == 1:
        return (MEAN,)
    return tuple(MEAN + SPREAD * (1 - 2 * at / (layers - 1)) for at in range(layers))


def main() -> int:
    """Measure, print and write contextual_model_<dtype>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sparsity", default="contextual,contextual+2:4")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    config = BenchConfig.of(
        {
            "layers": arguments.layers,
            "vocab": max(1, VOCAB * arguments.layers // LAYERS),
            "rates": rates(arguments.layers),
            "dtype": arguments.dtype,
            "tokens": arguments.tokens,
            "repeats": arguments.repeats,
            "sparsity": arguments.sparsity.split(","),
        }
    )
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    with progress_bars(None) as bars:
        result = bench_contextual(config, device, bars.stage("bench"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    head = meta(
        name,
        model="Llama-3.2-3B's shape, random weights",
        threads=torch.get_num_threads(),
        config=result["config"],
        policy=result["policy"],
    )
    for row in result["rows"]:
        if row["side"] != "dense":
            row |= {"target": TARGET, "met": row["speedup"] >= TARGET and row["ttft_speedup"] >= 0.98}
    write(f"contextual_model_{device.type}_{arguments.dtype}", head, result["rows"], arguments.results)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
