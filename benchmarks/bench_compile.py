"""What compiling costs: time on a 70B-shaped Llama, the driver's start, pruning, packing, and memory kept.

Usage: bench_compile.py [--layers 80] [--quick] [--model FOLDER]

With a folder of a chat model also the time to its first token, compiled with empty caches and loaded.
Writes benchmarks/results/compile_cpu.json. Each part runs in a process of its own, so that peak
memory is that part's.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _measure

Row = dict[str, Any]

PROMPT = "What is the capital of France?"


def row(what: str, value: float, unit: str, at_most: float | None) -> Row:
    """One line of the table; `at_most` is the issue's target."""
    target = "" if at_most is None else f"≤ {at_most:g} {unit}".rstrip()
    return {
        "what": what,
        "value": value,
        "unit": unit,
        "target": target,
        "met": at_most is None or value <= at_most,
    }


def peak_gb() -> float:
    """The process's peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def resident_bytes() -> int:
    """The process's resident memory now, freed heap returned to the system first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def llama_70b(layers: int, mlir: str) -> list[Row]:
    """Compile a 70B-shaped Llama on the meta device, time each stage; its MLIR goes to the file `mlir`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import sparseflow as sf

    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
        ids = torch.zeros(2, 16, dtype=torch.long)
    compiled = sf.compile(
        model,
        prune="magnitude",
        kwargs={"input_ids": ids, "use_cache": False},
        policy="sparse",
        progress=False,
    )
    Path(mlir).write_text(compiled.mlir("torch"), encoding="utf-8")
    seconds = compiled.report.model["seconds"]
    ours = sum(seconds[stage] for stage in ("import", "passes", "lowering"))
    name = f"{layers}-layer 70B-shaped Llama"
    return [
        row(f"{name}: torch.export", seconds["export"], "s", None),
        row(f"{name}: import + passes + lowering", ours, "s", seconds["export"]),
        *(row(f"{name}: {stage}", seconds[stage], "s", None) for stage in ("import", "passes", "lowering")),
        row(f"{name}: peak memory of the process", peak_gb(), "GB", 2),
    ]


def driver(mlir: str) -> list[Row]:
    """`sparseflow-opt` on the text of that module, and its start."""
    return [
        row(
            "sparseflow-opt: full pipeline on its text",
            _run(["--pipeline=runtime", mlir, "-o", "/dev/null"]),
            "s",
            10,
        ),
        row("sparseflow-opt --help", min(_run(["--help"]) for _ in range(5)), "s", 0.6),
    ]


def _run(arguments: list[str]) -> float:
    command = [str(Path(sys.executable).with_name("sparseflow-opt")), *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def packing() -> list[Row]:
    """Pruning and packing one matrix."""
    import torch

    import sparseflow as sf
    from sparseflow.runtime.timing import medians

    weight = torch.randn(14336, 4096).half()
    pruned = sf.prune_24(weight)
    calls: dict[str, Callable[[int], object]] = {
        "sf.prune_24": lambda _: sf.prune_24(weight),
        "sf.compress_2_4": lambda _: sf.compress_2_4(pruned),
    }
    seconds = medians(list(calls.values()))
    return [
        row(f"{name} of 14336×4096 fp16", each, "s", 1) for name, each in zip(calls, seconds, strict=True)
    ]


def memory(dtype: str, at_most: float) -> list[Row]:
    """Bytes of compressed linears with `inplace=True`, as counted and as process memory."""
    import torch
    from torch import nn

    import sparseflow as sf

    layers = [nn.Linear(4096, 4096, bias=False, dtype=getattr(torch, dtype)) for _ in range(32)]
    x = torch.randn(4, 4096).to(getattr(torch, dtype))
    warm = sf.compile(
        nn.Sequential(nn.Linear(64, 64)).to(x.dtype).eval(),
        prune="magnitude",
        policy="sparse",
        progress=False,
    )
    warm(x[:, :64])
    model = nn.Sequential(*layers).eval()
    del layers
    dense_bytes = sum(p.nbytes for p in model.parameters())
    before = resident_bytes() - dense_bytes
    compiled = sf.compile(model, (x,), prune="magnitude", inplace=True, policy="sparse", progress=False)
    kept = resident_bytes() - before
    counted = sum(layer.bytes for layer in compiled.report.layers)
    return [
        row(f"{dtype} compressed linears, bytes counted over dense", counted / dense_bytes, "", at_most),
        row(f"{dtype} compressed linears, process memory over dense", kept / dense_bytes, "", at_most),
    ]


def first_token(folder: str, saved: str) -> list[Row]:
    """Compile a chat model in 2:4 with empty caches, let it write a token, and save it."""
    import torch

    import sparseflow as sf
    from sparseflow.integrations.transformers.models import from_folder, read_tokenizer

    model = from_folder(Path(folder), torch.float32).eval()
    sf.prune(model, progress=False)
    ids = _ids(read_tokenizer(Path(folder)))
    start = time.perf_counter()
    compiled = sf.compile(model, mode="reduce-overhead", progress=False)
    compiled.generate(ids, max_new_tokens=1, do_sample=False)
    seconds = time.perf_counter() - start
    compiled.save(saved)
    return [row(f"{Path(folder).name}: first token, compiled, caches empty", seconds, "s", 25)]


def loaded_token(folder: str, saved: str) -> list[Row]:
    """Load what was saved, and let it write a token."""
    import sparseflow as sf
    from sparseflow.integrations.transformers.models import read_tokenizer

    ids = _ids(read_tokenizer(Path(folder)))
    start = time.perf_counter()
    sf.load(saved).generate(ids, max_new_tokens=1, do_sample=False)
    return [row(f"{Path(folder).name}: first token, loaded", time.perf_counter() - start, "s", 3)]


def _ids(tokenizer: Any) -> Any:
    return tokenizer(PROMPT, return_tensors="pt")["input_ids"]


def _first_tokens(folder: Path) -> list[Row]:
    with tempfile.TemporaryDirectory() as work:
        for name in ("SPARSEFLOW_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            os.environ[name] = str(Path(work) / name)
        saved = str(Path(work) / "saved")
        return apart(first_token, str(folder), saved) + apart(loaded_token, str(folder), saved)


def apart(part: Callable[..., list[Row]], *args: object) -> list[Row]:
    """Run a part in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(part, args)
    for each in rows:
        mark = "" if each["met"] else "   MISSED"
        print(
            f"{each['what']:<62} {each['value']:>9.3g} {each['unit']:<3} {each['target']}{mark}", flush=True
        )
    return rows


def main() -> int:
    """Run all parts and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--quick", action="store_true", help="4 layers; writes nothing")
    parser.add_argument("--model", type=Path, help="folder of a chat model, such as SmolLM2's")
    options = parser.parse_args()
    layers = 4 if options.quick else options.layers
    with tempfile.NamedTemporaryFile(suffix=".mlir") as mlir:
        rows = apart(llama_70b, layers, mlir.name) + apart(driver, mlir.name)
    if options.model is not None:
        rows += _first_tokens(options.model)
    rows += apart(packing) + apart(memory, "float32", 0.54) + apart(memory, "bfloat16", 0.57)
    if not options.quick:
        print(f"wrote {_measure.write('compile_cpu', _measure.meta(_measure.cpu_name()), rows)}")
    return 0 if all(each["met"] for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
