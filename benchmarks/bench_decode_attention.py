"""Attention of one query a sequence on a GPU: ours beside torch's, device time in a CUDA graph.

    python benchmarks/bench_decode_attention.py [--folder benchmarks/results]

Shapes of Llama-3-8B: 32 query heads, 8 of keys, 128 wide, bf16. Each call of a graph reads another cache, so
that none is in the L2 cache; the sides' graphs are replayed in turn. Rows of
``decode_attention_<device>.json``:
``batch, context, capacity, ours_us, sdpa_mask_us, flash_varlen_us, flex_us, floor_us, target_us, rel_err``; a
side that this torch can't run is null. ``floor_us`` are the bytes of the keys and values that are seen at the
speed of a read measured here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _measure import RESULTS, gpu_name, meta, write
from torch import Tensor

from sparseflow.runtime.attention.decode_attention import decode_attention, why_not_split

HEADS, KV_HEADS, WIDTH = 32, 8, 128
SCALE = WIDTH**-0.5
SIZES = [
    (1, 1024, 1024),
    (1, 1024, 4096),
    (1, 8192, 8192),
    (1, 8192, 16384),
    (16, 1024, 1024),
    (16, 8192, 8192),
]
"""Sequences, tokens in the cache, and tokens that it holds."""
TARGETS = {(1, 1024): 6.0, (1, 8192): 14.0}
CACHED = 300 << 20
"""Bytes that the caches of a graph have together at least: several times what an L2 cache holds."""
REPEATS = 9

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]


def inputs(batch: int, context: int, capacity: int) -> list[Inputs]:
    """Return queries, keys and values of several layers; NaN beyond the context would show in a result."""
    read = 4 * batch * context * KV_HEADS * WIDTH
    made = []
    for _ in range(max(2, min(48, -(-CACHED // read)))):
        q = torch.randn(batch, HEADS, 1, WIDTH, dtype=torch.bfloat16, device="cuda")
        k, v = (torch.zeros(batch, KV_HEADS, capacity, WIDTH, dtype=q.dtype, device="cuda") for _ in "kv")
        k[:, :, :context].normal_()
        v[:, :, :context].normal_()
        made.append((q, k, v))
    return made


def ours(position: Tensor) -> Call:
    """Our operator, which reads the position on the device."""
    return lambda q, k, v: decode_attention(q, k, v, position, None, SCALE)


def sdpa(position: Tensor) -> Call:
    """Torch's attention with a mask over the whole cache, the heads of a group as queries of one head."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.arange(k.shape[2], device="cuda")[None, None, None] <= position
        packed = q.reshape(q.shape[0], KV_HEADS, -1, WIDTH)
        return F.scaled_dot_product_attention(packed, k, v, mask, scale=SCALE).reshape(q.shape)

    return call


def flash(position: Tensor, batch: int, capacity: int) -> Call:
    """Torch's FlashAttention with lengths on the device; its cache is `[batch, length, heads, width]`."""
    starts = torch.arange(batch + 1, device="cuda", dtype=torch.int32)
    lengths = (position + 1).to(torch.int32).expand(batch).contiguous()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (t.view(batch * capacity, KV_HEADS, WIDTH) for t in (k, v))
        found: Tensor = torch.ops.aten._flash_attention_forward(
            q.reshape(batch, HEADS, WIDTH), k, v, starts, starts * capacity, 1, capacity, 0.0, False, False,
            scale=SCALE, seqused_k=lengths,
        )[0]  # fmt: skip
        return found.reshape(q.shape)

    return call


def flex(position: Tensor, batch: int, capacity: int) -> Call:
    """flex_attention, compiled, with a block mask that was made before."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    blocks = -(-capacity // 128)
    indices = torch.arange(blocks, device="cuda", dtype=torch.int32).expand(batch, 1, 1, blocks).contiguous()
    count = ((position + 128) // 128).to(torch.int32).expand(batch, 1, 1).contiguous()
    mask = BlockMask.from_kv_blocks(
        count, indices, BLOCK_SIZE=(128, 128), seq_lengths=(1, capacity),
        mask_mod=lambda b, h, i, n: n <= position,
    )  # fmt: skip
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask, scale=SCALE, enable_gqa=True)


def graph_of(call: Call, layers: Sequence[Inputs]) -> torch.cuda.CUDAGraph:
    """Record a call for each layer."""
    for layer in layers[:2]:
        call(*layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in layers:
            call(*layer)
    return graph


def microseconds(graphs: dict[str, torch.cuda.CUDAGraph], calls: int) -> dict[str, float]:
    """Return each side's median time a call; the sides run in turn."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for repeat in range(REPEATS + 1):
        for name, graph in graphs.items():
            cuda: Any = torch.cuda  # torch's own annotations are incomplete here
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            if repeat:
                times[name].append(start.elapsed_time(end) * 1e3 / calls)
    return {name: round(statistics.median(found), 2) for name, found in times.items()}


def read_speed() -> float:
    """Return bytes a microsecond of a sum over 4 GiB."""
    whole = torch.zeros(1 << 31, dtype=torch.bfloat16, device="cuda")
    graph = torch.cuda.CUDAGraph()
    whole.sum()
    with torch.cuda.graph(graph):
        whole.sum()
    return whole.nbytes / microseconds({"read": graph}, 1)["read"]


def expected(q: Tensor, k: Tensor, v: Tensor, context: int) -> Tensor:
    """Return the result in fp64."""
    k, v = (t[:, :, :context].double().repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
    found: Tensor = (q.double() @ k.transpose(2, 3) * SCALE).softmax(-1) @ v
    return found


def measure(batch: int, context: int, capacity: int, speed: float) -> dict[str, Any]:
    """Measure a size."""
    layers = inputs(batch, context, capacity)
    turned = [(q, k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()) for q, k, v in layers]
    position = torch.tensor(context - 1, device="cuda")
    q, k, v = layers[0]
    assert why_not_split(q, k) is None, why_not_split(q, k)
    wanted = expected(q, k, v, context)
    sides: dict[str, tuple[Callable[[], Call], Sequence[Inputs]]] = {
        "ours": (lambda: ours(position), layers),
        "sdpa_mask": (lambda: sdpa(position), layers),
        "flash_varlen": (lambda: flash(position, batch, capacity), turned),
        "flex": (lambda: flex(position, batch, capacity), layers),
    }
    graphs: dict[str, torch.cuda.CUDAGraph] = {}
    calls: list[Call] = []  # a graph reads the tensors that its calls hold, as often as it is replayed
    errors: dict[str, float] = {}
    for name, (make, of) in sides.items():
        try:
            calls.append(call := make())
            errors[name] = float((call(*of[0]) - wanted).norm() / wanted.norm())
            graphs[name] = graph_of(call, of)
        except Exception as error:  # an opponent may not be in this torch, or fail in any way
            if name == "ours":
                raise
            print(f"{name} left out: {str(error).partition(chr(10))[0]}", file=sys.stderr)
    wrong = {name: found for name, found in errors.items() if not found < 1e-2}
    assert not wrong, f"wrong results: {wrong}"
    times = microseconds(graphs, len(layers))
    floor = 4 * batch * context * KV_HEADS * WIDTH / speed
    return {
        "batch": batch,
        "context": context,
        "capacity": capacity,
        **{f"{name}_us": times.get(name) for name in sides},
        "floor_us": round(floor, 2),
        "target_us": TARGETS.get((batch, context)),
        "rel_err": errors["ours"],
    }


def main() -> int:
    """Measure every size, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    name = torch.cuda.get_device_name()
    speed = read_speed()
    rows = []
    with torch.no_grad():
        for size in SIZES:
            rows.append(measure(*size, speed))
            print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    print(
        write(gpu_name("decode_attention", name), meta(name, read_tb_s=round(speed / 1e6, 2)), rows, folder)
    )
    met = [row["ours_us"] <= row["target_us"] for row in rows if row["target_us"]]
    print(f"{sum(met)} of {len(met)} targets met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
