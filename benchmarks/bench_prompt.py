"""Time to the first token beside eager, and the attention of a prompt over a static cache on a GPU.

    python benchmarks/bench_prompt.py [--layers 4] [--calls 1x2048 4x2048 16x8192] [--out FOLDER]

A Llama-3-8B of fewer layers with random 2:4 weights in bfloat16. `first_ms` is `generate` of one token by
us, `dense_first_ms` by the original model, in turns in one process. The attention of one layer,
`attention_ms`, runs over a cache of the length that `generate` makes, beside torch's with a mask over the
whole of it (`masked_ms`) and the causal one of the prompt alone, as eager has it (`causal_ms`); times of
events, in turns. Rows of ``prompt_<device>.json`` have ``model, layers, batch, context, capacity`` too,
medians, and `rel_err` of the attention against float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import RESULTS, gpu_name, meta, write
from _models import LLAMA, Place, llama
from torch import Tensor

import sparseflow as sf
from sparseflow.execution.generation import rounded_length
from sparseflow.runtime.attention.prompt_attention import prompt_attention

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 1, "eos_token_id": None, "pad_token_id": 0}


def main() -> None:
    """Measure and write the rows, after each call all that there are."""
    options = _options()
    device = torch.device("cuda")
    model = llama(options.model, Place("cuda", torch.bfloat16), options.layers)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                layer.weight.copy_(sf.prune_24(layer.weight))
    compiled = sf.compile(model, policy=options.policy, inner="inductor")
    name = torch.cuda.get_device_name()
    rows: list[dict[str, Any]] = []
    for batch, context in options.calls:
        row = {"model": options.model, "layers": options.layers, "batch": batch, "context": context}
        row["capacity"] = rounded_length(context + 1)
        row |= _attention(options.model, batch, context, row["capacity"], options.repeats)
        ids = torch.randint(1000, 10000, (batch, context), device=device)
        row |= _first_tokens({"": compiled.generate, "dense_": model.generate}, ids, options.repeats)
        rows.append(row)
        print(row, write(gpu_name("prompt", name), meta(name), rows, options.out), sep="\n", flush=True)


def _first_tokens(sides: dict[str, Callable[..., Any]], ids: Tensor, repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {side: [] for side in sides}
    mask = torch.ones_like(ids)
    for turn in range(repeats + 3):
        for side, generate in sides.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            generate(ids, attention_mask=mask, **GREEDY)[0].tolist()
            if turn >= 3:  # the first turns compile, tune and record
                times[side].append(time.perf_counter() - start)
    return {f"{side}first_ms": round(statistics.median(found) * 1e3, 3) for side, found in times.items()}


def _attention(model: str, batch: int, context: int, capacity: int, repeats: int) -> dict[str, float]:
    """Time the attention of one layer, each side over the same tensors."""
    heads, of_keys = LLAMA[model]["num_attention_heads"], LLAMA[model]["num_key_value_heads"]
    width = LLAMA[model]["hidden_size"] // heads
    q = torch.randn(batch, context, heads, width, dtype=torch.bfloat16, device="cuda").transpose(1, 2)
    k, v = (torch.zeros(batch, of_keys, capacity, width, dtype=q.dtype, device="cuda") for _ in "kv")
    k[:, :, :context].normal_()
    v[:, :, :context].normal_()
    position, scale = torch.zeros((), dtype=torch.int64, device="cuda"), width**-0.5

    def masked() -> Tensor:
        last = position + torch.arange(context, device="cuda")[:, None]
        mask = (torch.arange(capacity, device="cuda") <= last)[None, None]
        keys, values = (t.repeat_interleave(heads // of_keys, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, keys, values, mask, scale=scale)

    def causal() -> Tensor:
        keys, values = (t[:, :, :context] for t in (k, v))
        return F.scaled_dot_product_attention(q, keys, values, is_causal=True, scale=scale, enable_gqa=True)

    sides: dict[str, Callable[[], Tensor]] = {
        "attention": lambda: prompt_attention(q, k, v, position, scale),
        "masked": masked,
        "causal": causal,
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(repeats + 2):
        for side, run in sides.items():
            elapsed = _elapsed(run)
            if turn >= 2:
                times[side].append(elapsed)
    found = {f"{side}_ms": round(statistics.median(all_), 4) for side, all_ in times.items()}
    return {**found, "rel_err": _error(sides["attention"](), q, k, v, scale)}


def _elapsed(run: Callable[[], Tensor]) -> float:
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _error(found: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> float:
    """The error of some queries of the last sequence's last head, relative to the largest output."""
    rows = torch.linspace(0, q.shape[2] - 1, 64, device="cuda").long()
    query, key, value = q[-1, -1, rows].float(), k[-1, -1].float(), v[-1, -1].float()
    hidden = torch.arange(k.shape[2], device="cuda") > rows[:, None]
    wanted = (query @ key.T * scale).masked_fill(hidden, -torch.inf).softmax(-1) @ value
    return float((found[-1, -1, rows].float() - wanted).abs().max() / wanted.abs().max())


def _call(text: str) -> tuple[int, int]:
    batch, _, context = text.partition("x")
    return int(batch), int(context)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=LLAMA, default="8b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--calls", nargs="+", type=_call, default=[(1, 2048), (4, 2048), (16, 8192)])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--policy", choices=["auto", "sparse"], default="sparse")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
