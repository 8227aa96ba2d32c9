"""How long pruning takes on the GPU, one layer or a whole model of Llama-3-8B's shape, on 128 × 2048 tokens.

    python benchmarks/quality/speed.py [--parts layers model] [--tokens 262144] [--blocks 4 32]

Writes prune_speed_h200.json (prune_speed_gpu.json on other GPUs) after each row. Layers: random inputs, taken
in 2048 rows at a time; ``gather_ms`` is making them and their statistics, ``prune_ms`` the method,
``reconstruct_ms`` the least squares. Models: `sf.prune` from start to end on random tokens, random bfloat16
weights on the GPU already, with so many of the 32 decoder blocks.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, gpu_name, meta, write

import sparseflow as sf
from sparseflow.pruning import ria, sparsegpt, wanda
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.prune_options import Method
from sparseflow.pruning.reconstruction import LeastSquares
from sparseflow.pruning.statistics import Statistics

PARTS = ("layers", "model")
MODEL_METHODS: tuple[Method, ...] = ("wanda", "sparsegpt")
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


def layer_rows(n: int, k: int, tokens: int) -> Iterator[dict[str, Any]]:
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
    for method, prune in methods.items():
        pruned, prune_ms = timed(prune)
        problem = LeastSquares(weight, gram, None, tokens, 0.01, "layer")
        solved, reconstruct_ms = timed(lambda pruned=pruned, problem=problem: problem.on_support(pruned))  # type: ignore[misc]
        yield {
            "part": "layers",
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


def model_row(blocks: int, method: Method, tokens: int) -> dict[str, Any]:
    """A row for one method on a model of so many blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=BATCH,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    calibration = torch.split(torch.randint(config.vocab_size, (tokens // BATCH, BATCH)), 4)
    torch.cuda.reset_peak_memory_stats()
    report, milliseconds = timed(lambda: sf.prune(model, method, calibration))
    return {
        "part": "model",
        "blocks": blocks,
        "parameters": sum(p.numel() for p in model.parameters()),
        "pruned_layers": sum(layer.method is not None for layer in report.layers),
        "tokens": tokens,
        "method": method,
        "seconds": round(milliseconds / 1e3, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "notes": list(report.notes),
    }


def every_row(parts: Sequence[str], tokens: int, blocks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """All rows that were asked for."""
    if "layers" in parts:
        for _ in layer_rows(256, 256, BATCH):
            pass  # the libraries load
        for shape in SHAPES:
            yield from layer_rows(*shape, tokens)
    if "model" in parts:
        for count, method in itertools.product(blocks, MODEL_METHODS):
            yield model_row(count, method, tokens)


def main() -> int:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tokens", type=int, default=128 * 2048)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("speed.py: no CUDA device", file=sys.stderr)
        return 1
    gpu = torch.cuda.get_device_name()
    found = []
    with torch.no_grad():
        for row in every_row(arguments.parts, arguments.tokens, arguments.blocks):
            found.append(row)
            print(row, flush=True)
            write(gpu_name("prune_speed", gpu), meta(gpu), found, arguments.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
