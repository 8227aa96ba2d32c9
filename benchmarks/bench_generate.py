"""Greedy decoding beside transformers' and torch.compile's: `python benchmarks/bench_generate.py MODEL`.

MODEL is a folder that transformers reads. All sides run in one process, in turns, over the same 2:4 weights,
beside a read of as many bytes as a step needs: weights as they are stored, and the cache.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _measure
import torch

import sparseflow as sf
from sparseflow.bench import generate_rows
from sparseflow.integrations.transformers.models import from_folder


def main() -> None:
    """Measure and write ``benchmarks/results/decode_<device>.json``."""
    options = _options()
    device = torch.device(options.device)
    rows = []
    for dtype in options.dtype:
        model = from_folder(options.model, getattr(torch, dtype)).to(device)
        with torch.no_grad():
            for layer in _linear(model):
                layer.weight.copy_(sf.prune_24(layer.weight))
        calls = [(batch, context) for batch in options.batch for context in options.context]
        rows += generate_rows(
            options.name or options.model.name,
            model,
            calls,
            options.tokens,
            options.repeats,
            lambda *_: None,
            torch_compile=not options.no_torch_compile,
            inner="inductor",
            policy="sparse",
        )
        print(*rows, sep="\n", flush=True)
    name = (
        _measure.gpu_name("decode", torch.cuda.get_device_name()) if device.type == "cuda" else "decode_cpu"
    )
    title = torch.cuda.get_device_name() if device.type == "cuda" else _measure.cpu_name()
    print(_measure.write(name, _measure.meta(title), rows, options.out))


def _linear(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """All linear layers but the head, which shares its weight with the embedding in small models."""
    named = model.named_modules()
    return [layer for name, layer in named if isinstance(layer, torch.nn.Linear) and name != "lm_head"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", default="", help="of the model, in the rows")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--context", nargs="+", type=int, default=[128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-torch-compile", action="store_true")
    parser.add_argument("--out", type=Path, default=_measure.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
