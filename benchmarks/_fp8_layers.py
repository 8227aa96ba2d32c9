"""Whole layers in fp8, their scaling of x included: for bench_skinny.py's fp8 rows and bench_wide.py.

The own kernels beside dense fp8, which is torch's product scaled by rows or by one number after one
kernel that quantises x (torch.compile's), and beside the layer that cuSPARSELt makes (``linear_fp8_fused``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sparseflow.runtime import fp8
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tuning.layers import Layer
from sparseflow.runtime.tuning.point import Candidate
from sparseflow.runtime.tuning.replay import Replay, in_turns

ASKED = {
    (28672, 4096): 1.5,
    (57344, 8192): 1.5,
    (8192, 28672): 1.5,
    (4096, 14336): 1.15,
    (10240, 8192): 1.15,
    (6144, 4096): 1.15,
    (4096, 4096): 1.15,
}
"""(N, K): the least speed-up over the dense layer that issue 23 asks up to M = 64."""

ROUNDS = 15
FINALISTS = 3
"""So many variants, the fastest by one replay each, run in the last round."""

# For each size anew, as a model of such sizes has it: open sizes took twice as long on an H200.
torch._dynamo.config.recompile_limit = 128
_quantize: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.compile(fp8.quantize_rows, dynamic=False)


def moved_bytes(n: int, k: int, m: int) -> float:
    """Kept values and places of W, x and y."""
    return n * k * 5 / 8 + 2 * m * (k + n)


def dense_layers(
    layer: Layer, x: Tensor, scales: Tensor, pool: Any, then: Callable[[Tensor], Tensor] = lambda y: y
) -> list[Replay]:
    """Dense fp8, by rows' scales and by one number's; ``scales`` are W's, ``then`` follows the product."""
    row, one = scales[None, :].contiguous(), torch.ones((), device=x.device)

    def product(copy: int, by_rows: bool) -> Tensor:
        x8, scale = _quantize(x)
        y = torch._scaled_mm(
            x8,
            layer.dense[copy].t(),
            scale_a=scale if by_rows else one,
            scale_b=row if by_rows else one,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return then(y)

    return [
        Replay(lambda copy, by_rows=by_rows: product(copy, by_rows), layer.copies, pool)  # type: ignore[misc]
        for by_rows in (True, False)
    ]


def sparse_layer(
    layer: Layer, x: Tensor, scales: Tensor, choice: Choice, pool: Any, epilogue: str = "none"
) -> Replay:
    """The operator by a choice."""
    policy = [1, choice.code]

    def call(copy: int) -> Tensor:
        w = layer.packed[copy]
        y: Tensor = fp8.linear_fp8(
            x, w.values, w.positions, scales, None, None, w.in_features, epilogue, policy, None
        )
        return y

    return Replay(call, layer.copies, pool)


def fastest(
    layer: Layer, x: Tensor, scales: Tensor, choices: Iterable[Choice], pool: Any, epilogue: str = "none"
) -> list[tuple[Choice, Replay]]:
    """The fastest choices of own kernels, by the better of two replays each."""
    timed = []
    for place, choice in enumerate(choices):
        try:
            side = sparse_layer(layer, x, scales, choice, pool, epilogue)
        except RuntimeError:  # this GPU hasn't that variant
            continue
        timed.append((min(side.us(), side.us()), place, choice, side))
        side.forget()
    return [(choice, side) for _, _, choice, side in sorted(timed, key=lambda t: t[:2])[:FINALISTS]]


def fp8_row(layer: Layer, n: int, k: int, m: int, copying: float, theirs: Candidate | None) -> dict[str, Any]:
    """One row; ``theirs`` is the best tuned algorithm of cuSPARSELt."""
    x, scales = torch.randn(m, k, device="cuda").bfloat16(), torch.rand(n, device="cuda") + 0.5
    pool = torch.cuda.graph_pool_handle()
    variants: int = torch.ops.sparseflow.skinny_variants(n, k, m)
    own = fastest(layer, x, scales, (Choice("skinny", variant) for variant in range(variants)), pool)
    exact = (x.double() @ layer.dense[0].double().T * scales.double()).float()
    y = sparse_layer(layer, x, scales, own[0][0], pool)
    rel_err = y.error(exact)
    library = Choice("cusparselt", theirs.algorithm, theirs.split_k) if theirs else None
    dense = dense_layers(layer, x, scales, pool)
    sides = [*dense, *(side for _, side in own)]
    if library is not None:
        sides.append(sparse_layer(layer, x, scales, library, pool))
    for side in sides:
        side.forget()
    us = in_turns(sides, ROUNDS, lambda _: None)
    dense_us, own_us = min(us[:2]), min(us[2 : 2 + len(own)])
    library_us = us[-1] if library else None
    bandwidth = moved_bytes(n, k, m) / own_us / 1e3
    return {
        "dense_us": round(dense_us, 2),
        "dense_by_rows_us": round(us[0], 2),
        "ours_us": round(own_us, 2),
        "variant": own[us[2 : 2 + len(own)].index(own_us)][0].algorithm,
        "cusparselt_us": round(library_us, 2) if library_us else None,
        "cusparselt_algorithm": theirs.algorithm if theirs else None,
        "speedup": round(dense_us / own_us, 3),
        "over_cusparselt": round(library_us / own_us, 3) if library_us else None,
        "gb_per_s": round(bandwidth),
        "share_of_copy": round(bandwidth / copying, 3),
        "rel_err": rel_err,
        "target": ASKED[n, k],
        "met": dense_us / own_us >= ASKED[n, k],
    }
