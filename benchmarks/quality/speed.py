"""How long pruning one layer takes on the GPU: each method on XᵀX of 128 × 2048 tokens, Llama-3-8B's widths.

    python benchmarks/quality/speed.py [--tokens 262144]

Writes prune_speed_h200.json (prune_speed_gpu.json on other GPUs). ``gather_ms`` is making inputs and taking
their statistics in, 2048 rows at a time; ``prune_ms`` the method, ``reconstruct_ms`` the least squares.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import gpu_name, meta, write

from sparseflow.pruning import ria, sparsegpt, wanda
from sparseflow.pruning.layers import Layer
from sparseflow.pruning.reconstruction import LeastSquares
from sparseflow.pruning.statistics import Statistics

SHAPES = [(4096, 4096), (14336, 4096), (4096, 14336)]
BATCH = 2048
Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` gives, and the milliseconds it took the device to do it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return result, round(1e3 * (time.perf_counter() - start), 1)


def gather(layer: Layer, tokens: int, *, gram: bool) -> Statistics:
    """Statistics of inputs that a few hidden factors explain but for noise, as those of real layers."""
    k = layer.shape[1]
    generator = torch.Generator("cuda").manual_seed(0)
    mix = torch.randn(k // 8, k, generator=generator, device="cuda", dtype=torch.bfloat16)
    gathered = Statistics(layer, gram=gram, calls=tokens // BATCH)
    for _ in range(tokens // BATCH):
        x = torch.randn(BATCH, k // 8, generator=generator, device="cuda", dtype=torch.bfloat16) @ mix
        gathered.add(x + torch.randn_like(x))
    return gathered


def rows(n: int, k: int, tokens: int) -> list[dict[str, Any]]:
    """A row for each method on one shape."""
    module = nn.Linear(k, n, bias=False, device="cuda", dtype=torch.bfloat16)
    layer = Layer("layer", module, transposed=False)
    weight = layer.weight
    light, light_ms = timed(lambda: gather(layer, tokens, gram=False))
    heavy, heavy_ms = timed(lambda: gather(layer, tokens, gram=True))
    gram, norms = heavy.take_gram(), light.norms()
    methods: dict[str, Callable[[], Tensor]] = {
        "wanda": lambda: wanda(weight, norms),
        "ria": lambda: ria(weight, norms),
        "sparsegpt": lambda: sparsegpt(weight, gram.clone()),
    }
    found = []
    for method, prune in methods.items():
        pruned, prune_ms = timed(prune)
        problem = LeastSquares(weight, gram, None, tokens, 0.01, "layer")
        solved, reconstruct_ms = timed(lambda pruned=pruned, problem=problem: problem.on_support(pruned))  # type: ignore[misc]
        found.append(
            {
                "N": n,
                "K": k,
                "tokens": tokens,
                "method": method,
                "gather_ms": heavy_ms if method == "sparsegpt" else light_ms,
                "prune_ms": prune_ms,
                "reconstruct_ms": reconstruct_ms,
                "output_err": round(heavy.output_error(weight, pruned), 4),
                "output_err_reconstructed": round(heavy.output_error(weight, solved), 4),
            }
        )
        print(found[-1], flush=True)
    return found


def main() -> int:
    """Measure all shapes and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128 * 2048)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("speed.py: no CUDA device", file=sys.stderr)
        return 1
    gpu = torch.cuda.get_device_name()
    with torch.no_grad():
        rows(256, 256, BATCH)  # the libraries load
        found = [row for shape in SHAPES for row in rows(*shape, arguments.tokens)]
    print(write(gpu_name("prune_speed", gpu), meta(gpu), found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
