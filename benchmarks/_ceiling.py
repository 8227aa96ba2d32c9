"""What a model's speed-up can be: its dense time less what each of its products saves, measured alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import _sides
import torch
import torch.nn.functional as F
from _weights import copies_of, packed, pruned

from sparseflow.runtime import gpu, ops

Product = tuple[tuple[int, ...], int, tuple[int, ...]]
"""Out features of the layers that one sparse product merges, K, and the policy's codes."""


def products(program: Any) -> Counter[Product]:
    """The sparse products of a captured program, and how often each runs."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for layer in program.phases.decisions:
        if layer.decision == "sparse":
            groups.setdefault(layer.merged or (layer.weight,), []).append(layer)
    return Counter(
        (
            tuple(part.N for part in parts),
            parts[0].K,
            tuple(program.phases.policies[parts[0].policy].to_ints()),
        )
        for parts in groups.values()
    )


def saved_us(product: Product, m: int, dtype: torch.dtype, seconds: float = 0.1) -> float:
    """Microseconds that one sparse product saves over the dense layers it replaces, by CUDA-graph replay."""
    parts, k, codes = product
    copies = copies_of(sum(parts), k, dtype.itemsize)
    x = torch.randn(m, k, device="cuda").to(dtype)
    dense = [pruned(sum(parts), k, dtype) for _ in range(copies)]
    forms = [packed(weight) for weight in dense]
    split: list[Any] = [torch.split(weight, list(parts)) for weight in dense]
    gpu.prepare(forms[0], [m], codes)

    def ours(copy: int) -> Any:
        w = forms[copy]
        return ops.linear(x, w.values, w.positions, None, None, k, "none", list(codes), None)

    sides: dict[str, _sides.Call] = {
        "dense": lambda copy: [F.linear(x, w) for w in split[copy]],
        "ours": ours,
    }
    cuda: Any = torch.cuda  # torch's own annotations are incomplete here
    with torch.no_grad(), cuda.stream(cuda.Stream()):
        times = _sides.device_us(sides, {}, copies, seconds)
    return times["dense"] - times["ours"]


def ceiling_ms(program: Any, dense_ms: float, m: int, dtype: torch.dtype) -> float:
    """The time that would remain of `dense_ms` if nothing but the products got faster; M rows each."""
    saved = sum(count * saved_us(product, m, dtype) for product, count in products(program).items())
    return dense_ms - saved / 1e3
