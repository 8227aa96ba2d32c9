"""Loading into vLLM's engine, dense tensors and a packed folder: `python benchmarks/bench_vllm_load.py`.

A Llama-3-8B shape is made up, pruned, and saved as dense tensors and packed. Three ways of loading from files
that were just written: vLLM's own of the dense tensors, ours of them, which packs while it loads, and ours of
the packed folder. Every engine is a process of its own. All start at once and wait; then one after the other
loads and ends, so that only one works at a time. A last engine loads the packed folder under cProfile, and
the file says where the time went. `--tiny` runs a small shape on the CPU.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib.metadata
import io
import json
import os
import pstats
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _measure
from _vllm_side import ENVIRONMENT, LLAMA_8B, TINY, answers, synchronize, weight_bytes

PRUNED, PACKED = "pruned", "packed"
"""The folders."""

WAYS = {"dense": (PRUNED, None), "packing": (PRUNED, "sparseflow"), PACKED: (PACKED, "sparseflow")}
"""Each way of loading: its folder, and what vLLM calls the quantization."""

READY = {"ready": True}
PROFILE = "profile"
"""What follows the way of the engine that is profiled."""


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=32, help="of the 32")
    parser.add_argument("--rounds", type=int, default=2, help="engines of each way")
    parser.add_argument("--limit", type=int, default=150, help="seconds for all engines to start")
    parser.add_argument("--tiny", action="store_true", help="a small shape on the CPU")
    parser.add_argument("--load", nargs="+", help=argparse.SUPPRESS)  # what this starts itself with
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    return parser.parse_args(argv)


def write_folders(folder: Path, shape: dict[str, Any], device: str) -> None:
    """Write a made-up model, pruned by magnitude, as dense tensors and packed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import sparseflow as sf

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    config = {name: value for name, value in shape.items() if name not in ("architectures", "torch_dtype")}
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM(LlamaConfig(**config))
        torch.set_default_dtype(before)
    sf.prune(model, progress=False)
    model.save_pretrained(folder / PRUNED)
    sf.nn.sparsify(model, policy="sparse", tune="off")
    model.save_pretrained(folder / PACKED)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()


class Loaded(Exception):  # noqa: N818  # no error: it leaves vLLM once the model is there
    """Says that the model is loaded, and nothing more is wanted of its engine."""


def load(folder: Path, quantization: str | None, *, tiny: bool, profiled: bool) -> None:
    """Start an engine up to its model, load that when a line comes, and answer what it took."""
    from vllm import LLM
    from vllm.config import get_current_vllm_config
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    from sparseflow.integrations.vllm import registration

    registration.register()
    answer, whole = answers(), BaseModelLoader.load_model

    def load_model(self: object, *args: object, **options: object) -> None:
        answer(READY)
        sys.stdin.readline()
        profile = cProfile.Profile()
        start = time.perf_counter()
        model = profile.runcall(whole, self, *args, **options) if profiled else whole(self, *args, **options)
        synchronize()
        found: dict[str, Any] = {"load_s": time.perf_counter() - start, "weight_bytes": weight_bytes(model)}
        if profiled:
            found[PROFILE] = longest(profile)
        if quantization is not None:
            layers = get_current_vllm_config().quant_config.layers
            found |= {"layers": list(layers.lines()), "decided_s": layers.decided_s}
        answer(found)
        raise Loaded

    BaseModelLoader.load_model = load_model
    ours = {"sparseflow": {"policy": "sparse" if tiny else "auto"}}
    LLM(
        model=str(folder),
        quantization=quantization,
        additional_config=ours if quantization else {},
        dtype="float32" if tiny else "bfloat16",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
        # Others are on the GPU while this starts: what is free says nothing.
        **({} if tiny else {"gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": 1 << 28}),
    )


def longest(profile: cProfile.Profile) -> list[str]:
    """Return a line for each function that takes the most time itself: calls, seconds, place."""
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
    return [line.strip() for line in text.getvalue().splitlines() if line.strip()]


def engine(
    way: str, folder: Path, args: argparse.Namespace, *, profiled: bool = False
) -> subprocess.Popen[bytes]:
    """Start an engine that will load one way."""
    command = [sys.executable, __file__, "--load", way, str(folder)]
    command += [*([PROFILE] if profiled else []), *(["--tiny"] if args.tiny else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def answer_of(process: subprocess.Popen[bytes], end: float) -> dict[str, Any]:
    """Return the next line of an engine."""
    assert process.stdout is not None, "piped"
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
    line = process.stdout.readline() if ready else b""
    if not line:
        raise RuntimeError("an engine ended, its error is above" if ready else "an engine took too long")
    found: dict[str, Any] = json.loads(line)
    return found


def measured(ways: Sequence[str], folder: Path, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Start all engines, and let one after the other load."""
    end = time.monotonic() + args.limit
    engines = [(way, engine(way, folder, args)) for way in ways]
    engines.append((PROFILE, engine(PACKED, folder, args, profiled=True)))
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in (*WAYS, PROFILE)}
    try:
        for _, process in engines:
            answer_of(process, end)
        for way, process in engines:
            assert process.stdin is not None, "piped"
            process.stdin.write(b"\n")
            process.stdin.flush()
            found[way].append(answer_of(process, time.monotonic() + args.limit))
            process.wait(args.limit)
    finally:
        for _, process in engines:
            process.kill()
            process.wait()
    return found


def row_of(each: dict[str, list[dict[str, Any]]], size: dict[str, int], layers: object) -> dict[str, Any]:
    """The row of the result file: seconds, bytes on disk, bytes of memory."""
    row: dict[str, Any] = {"layers": layers}
    for way, prefix in (("dense", "dense_"), ("packing", "packing_"), (PACKED, "")):
        seconds = [found["load_s"] for found in each[way]]
        row |= {f"{prefix}load_s": statistics.median(seconds), f"{prefix}load_each": seconds}
        row[f"{prefix}weight_bytes"] = each[way][-1]["weight_bytes"]
        row[f"{prefix}bytes"] = size[WAYS[way][0]]
    row["decided_s"] = statistics.median(found["decided_s"] for found in each[PACKED])
    return row


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.load:
        folder, quantization = WAYS[args.load[0]]
        os.environ.update(ENVIRONMENT)
        try:
            profiled = PROFILE in args.load
            load(Path(args.load[1]) / folder, quantization, tiny=args.tiny, profiled=profiled)
        except Loaded:
            sys.stderr.flush()
            os._exit(0)  # the way out of an engine that was never finished is long
        return 1
    shape = TINY if args.tiny else {**LLAMA_8B, "num_hidden_layers": args.layers}
    with tempfile.TemporaryDirectory() as work:
        write_folders(Path(work), shape, "cpu" if args.tiny else "cuda")
        size = {
            name: sum(f.stat().st_size for f in (Path(work) / name).iterdir()) for name in (PRUNED, PACKED)
        }
        each = measured([*WAYS] * args.rounds, Path(work), args)
    row = row_of(each, size, shape["num_hidden_layers"])
    import torch

    device = _measure.cpu_name() if args.tiny else torch.cuda.get_device_name()
    name = "vllm_load_tiny" if args.tiny else _measure.gpu_name("vllm_load", device)
    runs = {way: found[-1].get("layers") for way, found in each.items() if way != PROFILE}
    profile = each[PROFILE][-1][PROFILE]
    head = _measure.meta(device, vllm=importlib.metadata.version("vllm"), runs=runs, profile=profile)
    print(json.dumps(row, indent=1), _measure.write(name, head, [row], args.results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
