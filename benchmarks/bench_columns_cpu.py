"""Linear layers that leave out inputs near zero against torch's best dense product, for one token on a CPU.

Weights rotate through 300 MB, so that each is read from memory. Dense is the faster of x · Wᵀ over [N, K] and
x · W over [K, N]. All sides run in turns in one process; times are the lower quartile of what wasn't
disturbed. int8 stands against dense bfloat16.

    OMP_NUM_THREADS=2 python benchmarks/bench_columns_cpu.py [--seconds 3] [--model FOLDER]

With --model the tokens a second of its `generate`, compiled with thresholds at a rate of 40%, against the
same program whose thresholds are 0, which reads every weight.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import RESULTS, cpu_name, meta, write
from torch import Tensor

import sparseflow as sf
from sparseflow.contextual.activations.activation_thresholds import LayerThreshold
from sparseflow.integrations.transformers.models import from_folder
from sparseflow.runtime.contextual.column import column_linear
from sparseflow.runtime.robust import settle
from sparseflow.runtime.timing import Turns

SHAPES = ((4096, 14336), (14336, 4096), (4096, 6144), (576, 3072), (1536, 576), (576, 960))
RATES = (0.0, 0.25, 0.4, 0.5)
BYTES = 300 << 20


def sides(k: int, n: int, dtype: torch.dtype) -> dict[str, Callable[[int], Tensor]]:
    """Return what is compared, each called with the number of its turn."""
    copies = min(64, max(1, BYTES // (k * n * dtype.itemsize)))
    weights = [(torch.randn(n, k) / k**0.5).to(dtype) for _ in range(copies)]
    columns = [weight.t().contiguous() for weight in weights]
    x = torch.randn(1, k).to(dtype)
    sorted_x = x.abs().float().flatten().sort().values

    def left_out(rate: float) -> float:
        return float(sorted_x[round(rate * k)]) if rate else 0.0

    found: dict[str, Callable[[int], Tensor]] = {
        "dense": lambda turn: F.linear(x, weights[turn % copies]),
    }
    if dtype == torch.float32:  # torch's product of the other layout is many times slower in 16 bits
        found["dense_columns"] = lambda turn: x @ columns[turn % copies]
    for rate in RATES:
        found[f"{rate:.2f}"] = functools.partial(_columns, x, columns, left_out(rate))
    if dtype == torch.bfloat16:
        bytes_ = [torch.randint(-127, 128, (k, n), dtype=torch.int8) for _ in range(min(64, 2 * copies))]
        scale, limit = torch.rand(n), left_out(0.4)
        found["int8 0.40"] = lambda turn: column_linear(
            x, bytes_[turn % len(bytes_)], limit, None, None, scale
        )
    return found


def _columns(x: Tensor, columns: list[Tensor], limit: float, turn: int) -> Tensor:
    y: Tensor = column_linear(x, columns[turn % len(columns)], limit)
    return y


def measured(k: int, n: int, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """Return the row of a shape."""
    compared = sides(k, n, dtype)
    turns = Turns(list(compared.values()))
    times = dict(zip(compared, settle(turns, least=9, most=4000, enough=1, limit=seconds).times, strict=True))
    dense = min(time for name, time in times.items() if name.startswith("dense"))
    row: dict[str, Any] = {"K": k, "N": n, "dtype": str(dtype).removeprefix("torch.")}
    row["dense_us"] = round(dense * 1e6, 1)
    row["dense_gb_s"] = round(k * n * dtype.itemsize / dense / 1e9, 2)
    return row | {name: round(dense / time, 3) for name, time in times.items() if "dense" not in name}


def generating(folder: Path, seconds: float) -> dict[str, Any]:
    """Return the row of a model's generate: one stream, 40% left out, against no input left out."""
    torch.manual_seed(0)
    compiled = []
    for rate in (0.0, 0.4):
        model = from_folder(folder, torch.float32).eval()
        ids = torch.randint(0, 1000, (1, 256))
        found = sf.calibrate_activations(model, ids, rate=0.4, tokens=256)
        if not rate:
            layers = {name: LayerThreshold(0.0, 0.0, 0.0, layer.shape) for name, layer in found.items()}
            found = sf.ActivationThresholds(layers)
        compiled.append(sf.compile(model, contextual=found, policy="sparse", inplace=True))
    prompt, new = torch.randint(0, 1000, (1, 32)), 24
    options = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new}
    both = [functools.partial(lambda turn, one: one.generate(prompt, **options), one=one) for one in compiled]
    dense, sparse = settle(Turns(both), least=5, most=60, enough=seconds, limit=4 * seconds).times
    return {
        "model": "SmolLM2-135M-Instruct",
        "tokens": new,
        "prompt": 32,
        "every_input_tokens_s": round(new / dense, 2),
        "tokens_s": round(new / sparse, 2),
        "speedup": round(dense / sparse, 3),
    }


def main() -> int:
    """Measure, print, and write columns_cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each shape")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    head = meta(cpu_name(), threads=torch.get_num_threads(), isa=torch.ops.sparseflow.cpu_isa())
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for k, n in SHAPES:
            for dtype in (torch.float32, torch.bfloat16):
                rows.append(measured(k, n, dtype, arguments.seconds))
                print(rows[-1], flush=True)
                write("columns_cpu", head, rows, arguments.results)
    if arguments.model is not None:
        rows.append(generating(arguments.model, arguments.seconds))
        print(rows[-1], flush=True)
        write("columns_cpu", head, rows, arguments.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
