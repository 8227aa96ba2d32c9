"""Linear layers that leave out inputs near zero against torch's best dense product, for one token on a CPU.

Weights rotate through 300 MB, so that each is read from memory. Dense is the faster of x · Wᵀ over [N, K] and
x · W over [K, N]. All sides run in turns in one process; times are the lower quartile of what wasn't
disturbed. int8 stands against dense bfloat16.

    OMP_NUM_THREADS=2 python benchmarks/bench_columns_cpu.py [--seconds 3] [--no-shapes] [--model FOLDER]

With --model the tokens a second of its `generate`, compiled with thresholds at a rate of 40% that were chosen
on text of its own, against the same program with dense weights; both decode in our loop, by compiled steps.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import RESULTS, cpu_name, meta, write
from torch import Tensor

import sparseflow as sf
from sparseflow.errors import UnprunedWarning
from sparseflow.execution.decoding.loop import PAYS_AFTER
from sparseflow.integrations.transformers.models import from_folder, read_tokenizer
from sparseflow.integrations.transformers.own_text import own_tokens
from sparseflow.runtime.contextual.column import column_linear
from sparseflow.runtime.robust import settle
from sparseflow.runtime.timing import Turns

SHAPES = ((4096, 14336), (14336, 4096), (4096, 6144), (576, 3072), (1536, 576), (576, 960))
RATES = (0.0, 0.25, 0.4, 0.5)
BYTES = 300 << 20
QUESTION = "What does a compiler do? It reads the text of a program and"
NEW = 48
"""Tokens that the model writes."""


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
    """Return the row of a model's generate, one stream: 40% left out against the program of dense weights.

    Args:
        folder: of the model.
        seconds: for each side.

    Raises:
        RuntimeError: a side's steps weren't what is compared: our loop's, compiled.
    """
    torch.manual_seed(0)
    model: Any = from_folder(folder, torch.float32).eval()
    tokenizer: Any = read_tokenizer(folder)
    found = sf.calibrate_activations(model, own_tokens(model, tokenizer, 256, 128, seed=0), rate=0.4)
    prompt = tokenizer(QUESTION, return_tensors="pt")["input_ids"]
    options = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
    written = model.generate(prompt, **options)
    left = left_out(model, found, written, prompt.shape[1])
    models = [from_folder(folder, torch.float32).eval() for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnprunedWarning)  # the dense side is meant to be
        compiled = [
            sf.compile(models[0], inplace=True),
            sf.compile(models[1], contextual=found, format=None, policy="sparse", inplace=True),
        ]
        for one in compiled:
            for _ in range(1 + PAYS_AFTER // (NEW - 1)):
                one.generate(prompt, **options)
            ran = one.report.model["generate"]
            if ran["loop"] != "sparseflow" or not ran["step"].startswith("inductor"):
                raise RuntimeError(f"not our loop over a compiled step: {ran}")
    both = [functools.partial(lambda turn, one: one.generate(prompt, **options), one=one) for one in compiled]
    dense, sparse = settle(Turns(both), least=5, most=60, enough=seconds, limit=4 * seconds).times
    return {
        "model": "SmolLM2-135M-Instruct",
        "tokens": NEW,
        "prompt": prompt.shape[1],
        "left_out": round(left, 3),
        "dense_tokens_s": round(NEW / dense, 2),
        "tokens_s": round(NEW / sparse, 2),
        "speedup": round(dense / sparse, 3),
    }


def left_out(model: Any, thresholds: sf.ActivationThresholds, ids: Tensor, first: int) -> float:
    """Return the share of the layers' weights that a sequence's tokens leave out, on the average.

    Args:
        model: the dense one.
        thresholds: of its layers.
        ids: the sequence, int64 `[1, any]`.
        first: the place of the first token that counts.
    """
    shares: dict[str, float] = {}

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        def see(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
            small = inputs[0][0, first:].abs() < thresholds[name].threshold
            shares[name] = float(small.float().mean())

        return see

    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in thresholds]
    try:
        model(ids)
    finally:
        for hook in hooks:
            hook.remove()
    sizes = {name: layer.shape[0] * layer.shape[1] for name, layer in thresholds.items()}
    return sum(sizes[name] * share for name, share in shares.items()) / sum(sizes.values())


def main() -> int:
    """Measure, print, and write columns_cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each shape")
    parser.add_argument("--model", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument(
        "--shapes", action=argparse.BooleanOptionalAction, default=True, help="layers, beside the model"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    head = meta(cpu_name(), threads=torch.get_num_threads(), isa=torch.ops.sparseflow.cpu_isa())
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for k, n in SHAPES if arguments.shapes else ():
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
