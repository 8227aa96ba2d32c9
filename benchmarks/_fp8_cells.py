"""The cells of bench_gemm.py in fp8: the best tuned candidate beside torch's dense fp8 and bf16 products."""

from __future__ import annotations

from typing import Any

import _sides
import torch
import torch.nn.functional as F
from _weights import copies_of, pruned, relative_error

from sparseflow.runtime import ops
from sparseflow.runtime.gpu import DeviceWeight
from sparseflow.runtime.kernels import Choice, find
from sparseflow.runtime.tuning import GpuMachine, lookup

E4M3 = torch.float8_e4m3fn


class Fp8Layer:
    """Copies of one fp8 weight, dense and packed, and the same weight in bfloat16."""

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k
        self.copies = copies_of(n, k, 1)
        self.dense = [pruned(n, k, E4M3) for _ in range(self.copies)]
        self.bf16 = [weight.to(torch.bfloat16) for weight in self.dense]
        # Packing moves bytes: fp8 goes through bfloat16, which holds it exactly.
        self.packed = [self._packed(weight) for weight in self.bf16]
        self.points = {p.m: p for p in lookup("float8_e4m3fn", n, k, GpuMachine.here(0))}

    def _packed(self, weight: torch.Tensor) -> DeviceWeight:
        values, positions = ops.pack_2_4(weight)
        return DeviceWeight.from_portable(values.to(E4M3), positions, self.k)


def fp8_cell(layer: Fp8Layer, m: int, seconds: float) -> dict[str, Any] | None:
    """One row of fp8: None where no candidate was tuned."""
    point = layer.points.get(m)
    if point is None or not point.candidates:
        return None
    best = point.candidates[0]
    x = torch.randn(m, layer.k, device="cuda").to(E4M3)
    x_bf16 = x.to(torch.bfloat16)
    rows = x if m % 16 == 0 else F.pad(x.view(torch.uint8), (0, 0, 0, 16 - m % 16)).view(E4M3)
    one = torch.ones((), device="cuda")

    def scaled(fast: bool) -> _sides.Call:
        return lambda copy: torch._scaled_mm(
            rows, layer.dense[copy].t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    kernel, choice = find(best.backend), Choice(best.backend, best.algorithm, best.split_k)
    taken = kernel.taken(x)

    def ours(copy: int) -> torch.Tensor:
        return kernel.run(taken, layer.packed[copy], choice, torch.bfloat16)

    sides: dict[str, _sides.Call] = {
        "dense_fast": scaled(True),
        "dense_exact": scaled(False),
        "dense_bf16": lambda copy: F.linear(x_bf16, layer.bf16[copy]),
        "ours": ours,
    }
    device = _sides.device_us(sides, {}, layer.copies, seconds)
    dense = min(device["dense_fast"], device["dense_exact"])
    return {
        "dense_us": round(dense, 2),
        "dense_bf16_us": round(device["dense_bf16"], 2),
        "ours_us": round(device["ours"], 2),
        "backend": best.backend,
        "algorithm": best.algorithm,
        "split_k": best.split_k,
        "rel_err": relative_error(ours(0), x_bf16, layer.bf16[0]),
        "speedup": round(dense / device["ours"], 3),
        "speedup_over_bf16": round(device["dense_bf16"] / device["ours"], 3),
    }
