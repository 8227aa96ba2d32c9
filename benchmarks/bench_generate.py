"""Greedy decoding beside transformers' and torch.compile's: `python benchmarks/bench_generate.py MODEL`.

MODEL is a folder that transformers reads, a GGUF file, or the name of a Llama shape with random weights, such
as 8b. All sides run in one process, in turns, over the same 2:4 weights, beside a read of as many bytes as a
step needs: weights as they are stored, and the cache. llama.cpp runs after them if llama-bench is given. Rows
are written after each dtype and head, so that a run that is cut keeps those that it has; none is begun after
the deadline.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import _measure
import _models
import torch
from _gpus import a_turn

import sparseflow as sf
from sparseflow.bench import generate_rows, llama_cpp_rows


def main() -> None:
    """Measure and write ``benchmarks/results/decode_<device>.json``."""
    options = _options()
    end = time.monotonic() + options.deadline
    _measure.pin(options.cores)
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    name = _measure.gpu_name("decode", torch.cuda.get_device_name()) if cuda else "decode_cpu"
    title = torch.cuda.get_device_name() if cuda else _measure.cpu_name()
    rows: list[dict[str, Any]] = []
    for dtype in options.dtype:
        model = _model(options.model, getattr(torch, dtype), device, options.layers)
        with torch.no_grad():
            for layer in _linear(model):
                layer.weight.copy_(sf.prune_24(layer.weight))
        for head in options.lm_head:
            if time.monotonic() < end:
                rows += _rows(model, head, options)
                _write(name, title, rows, options)
    if options.peer is not None and time.monotonic() < end:
        rows += llama_cpp_rows(
            *(options.peer, options.gguf, options.context, options.tokens, options.repeats),
            torch.get_num_threads(),
        )
        _write(name, title, rows, options)


def _rows(model: Any, head: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = generate_rows(
        options.name or Path(options.model).stem,
        model,
        [(batch, context) for batch in options.batch for context in options.context],
        options.tokens,
        options.repeats,
        lambda *_: None,
        torch_compile=not options.no_torch_compile and head == options.lm_head[0],
        turn=a_turn,
        inner="inductor",
        policy="sparse",
        lm_head=None if head == "dense" else head,
    )
    return [{**row, "lm_head": head, "threads": torch.get_num_threads()} for row in rows]


def _write(name: str, title: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    print(rows[-1], _measure.write(name, _measure.meta(title), rows, options.out), sep="\n", flush=True)


def _model(given: str, dtype: torch.dtype, device: torch.device, layers: int | None) -> Any:
    """Return the model of a folder or file, or a Llama of a shape with random weights."""
    if given in _models.LLAMA:
        return _models.llama(given, _models.Place(device.type, dtype), layers)
    return _models.real(Path(given), dtype).to(device)


def _linear(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """All linear layers but the head, which shares its weight with the embedding in small models."""
    named = model.named_modules()
    return [layer for name, layer in named if isinstance(layer, torch.nn.Linear) and name != "lm_head"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help=f"a folder, a .gguf file, or one of {', '.join(_models.LLAMA)}")
    parser.add_argument("--name", default="", help="of the model, in the rows")
    parser.add_argument("--layers", type=int, help="of a shape, with as much less of a vocabulary; all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    dtypes = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", nargs="*", choices=dtypes, default=["float32"], help="none: only the peer")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--context", nargs="+", type=int, default=[128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lm-head", nargs="+", default=["dense"], help="dense, fp8, 2:4 …")
    parser.add_argument("--no-torch-compile", action="store_true")
    parser.add_argument("--cores", type=int, nargs="+", default=[], help="to run on; by default all")
    parser.add_argument("--peer", type=Path, help="llama-bench")
    parser.add_argument("--gguf", type=Path, nargs="+", default=[], help="models for it")
    parser.add_argument("--deadline", type=float, default=86400.0, help="seconds")
    parser.add_argument("--out", type=Path, default=_measure.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
