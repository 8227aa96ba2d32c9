"""Benchmark single products, dense and sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime import ops
from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch import choose
from sparseflow.runtime.dispatch.measure_cpu import measure_layer
from sparseflow.runtime.products import which

if TYPE_CHECKING:
    from sparseflow.runtime.dispatch import Policy
    from sparseflow.runtime.tuning.layers import Layer
    from sparseflow.support.progress import Step

Row = dict[str, object]

ROUNDS = 15


def gemm_rows(
    shapes: Sequence[tuple[int, int]],
    ms: Sequence[int],
    dtypes: Sequence[torch.dtype],
    device: torch.device,
    step: Step,
) -> list[Row]:
    """Time ``x · Wᵀ`` for every shape, M and dtype, over weights that rotate past the cache.

    Args:
        shapes: (N, K) of each weight.
        ms: rows of x.
        dtypes: float32, bfloat16 or float16 on a CPU; bfloat16 or float16 on a GPU.
        device: where to run.
        step: called for each point.

    Returns:
        A row for each point: microseconds of ``F.linear`` and of the sparse product, and what ran. On a GPU
            they are
        device times of CUDA graphs, with dense in the faster of torch's configurations.

    Raises:
        ArgumentError: the device can't run the dtype or shape sparse.
    """
    rows: list[Row] = []
    total = len(shapes) * len(ms) * len(dtypes)
    measure = _on_gpu if device.type == "cuda" else _on_cpu
    for dtype in dtypes:
        for n, k in shapes:
            step(len(rows), total, f"{n}×{k} {dtype_name(dtype)}")
            for row in measure(n, k, ms, dtype, device):
                rows.append(row)
                step(len(rows), total, f"{n}×{k} {dtype_name(dtype)}, M={row['M']}")
    return rows


def _on_cpu(n: int, k: int, ms: Sequence[int], dtype: torch.dtype, _: torch.device) -> Iterator[Row]:
    points = measure_layer(n, k, dtype, ms)
    policy = choose(points)
    for point in points:
        ours, us = min(point.sparse_us, key=lambda way: way[1])
        yield _row(n, k, point.m, dtype, point.dense_us, us, ours) | {
            "unpacked_us": round(point.unpacked_us, 2),
            "dispatched": str(policy.choice(point.m)),
            "measured_rows": point.rows,
            "crowded": point.crowded,
        }


def _on_gpu(n: int, k: int, ms: Sequence[int], dtype: torch.dtype, device: torch.device) -> Iterator[Row]:
    from sparseflow.runtime.tuning.layers import Layer

    policy = which.policies([(n, k)], dtype, device, mode="sparse", tune="off")[n, k]
    if isinstance(policy, str):
        raise ArgumentError(f"{n}×{k} {dtype_name(dtype)}", f"can't run sparse: {policy}")
    new_stream: Callable[[torch.device], torch.cuda.Stream] = torch.cuda.Stream  # untyped in torch
    stream = new_stream(device)  # because the default stream can't be captured
    with torch.inference_mode(), torch.cuda.device(device), torch.cuda.stream(stream):
        layer = Layer.random(n, k, dtype)
        for m in ms:
            yield _gpu_point(layer, n, k, m, policy)


def _gpu_point(layer: Layer, n: int, k: int, m: int, policy: Policy) -> Row:
    from sparseflow.runtime import gpu
    from sparseflow.runtime.tuning import dense_opponents
    from sparseflow.runtime.tuning.layers import inputs, reference
    from sparseflow.runtime.tuning.replay import Replay, in_turns

    dtype, codes = layer.dense[0].dtype, policy.to_ints()
    x, pool = inputs(m, k, dtype), torch.cuda.graph_pool_handle()
    gpu.prepare(layer.packed[0], [m], codes)

    def ours(copy: int) -> Tensor:
        weight = layer.packed[copy]
        y: Tensor = ops.linear(x, weight.values, weight.positions, None, None, k, "none", codes)
        return y

    side = Replay(ours, layer.copies, pool)
    rel_err = side.error(reference(x, layer.dense[0]))
    sides = [*dense_opponents.dense(layer, x, pool), side]
    for one in sides:
        one.forget()
    *dense_us, ours_us = in_turns(sides, ROUNDS, lambda _: None)
    runs = gpu.path(layer.packed[0], m, codes)
    return _row(n, k, m, dtype, min(dense_us), ours_us, runs) | {"rel_err": rel_err}


def _row(n: int, k: int, m: int, dtype: torch.dtype, dense_us: float, ours_us: float, backend: str) -> Row:
    return {
        "N": n,
        "K": k,
        "M": m,
        "dtype": dtype_name(dtype),
        "dense_us": round(dense_us, 2),
        "ours_us": round(ours_us, 2),
        "speedup": round(dense_us / ours_us, 3),
        "backend": backend,
    }
