"""Contextual MLPs on a GPU beside dense ones: `python benchmarks/bench_contextual_gpu.py`.

Kernels: one MLP by CUDA-graph replay over copies of its weights that rotate past the L2 cache, dense (eager
and torch.compile), the kernel alone over a given list, and everything: predict, select and compute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import _measure
import _sides
import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.contextual.training import usual_rank
from sparseflow.runtime.contextual import ContextualWeights, Predictor

SHAPES = [(4096, 14336), (3072, 8192)]
DTYPES = ["bfloat16", "float16"]
ACTIVE = [0.1, 0.2, 0.25, 0.3, 0.5, 1.0]
ACTIVE_ELSEWHERE = [0.25, 0.5]  # than in the first shape and dtype
ROWS = [2, 4, 8, 16, 32]
ROWS_ACTIVE = 0.25
# (shape, dtype, active share, rows): the least speed-up that issue 7 asks of everything.
ASKED = {((4096, 14336), "bfloat16", 0.25, 1): 2.0, ((4096, 14336), "bfloat16", 0.5, 1): 1.3}
COPIES = 4
SECONDS = 0.25

_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here
_DYNAMO: Any = torch._dynamo


class Layer:
    """Copies of one MLP and of its predictor.

    Args:
        hidden: H. neurons: I.
        dtype: of the weights.
    """

    def __init__(self, hidden: int, neurons: int, dtype: torch.dtype) -> None:
        self.rank = usual_rank(neurons)
        self.hidden, self.neurons, self.dtype = hidden, neurons, dtype
        self.gate_up = [self._random(2 * neurons, hidden) for _ in range(COPIES)]
        self.down_t = [self._random(neurons, hidden) for _ in range(COPIES)]
        self.down = [d.T.contiguous() for d in self.down_t]
        self.a = [self._random(self.rank, hidden) for _ in range(COPIES)]
        self.b = [self._random(neurons, self.rank) for _ in range(COPIES)]

    def _random(self, rows: int, columns: int) -> Tensor:
        random: Tensor = torch.randn(rows, columns, device="cuda", dtype=torch.float32) / columns**0.5
        return random.to(self.dtype)

    def weights(self, copy: int) -> ContextualWeights:
        """Of that copy."""
        gate, up = self.gate_up[copy].chunk(2)
        return ContextualWeights(gate, up, self.down_t[copy])

    def predictor(self, copy: int, x: Tensor, active: float) -> Predictor:
        """One whose threshold selects about that share of the neurons for the rows of x together."""
        free = Predictor(self.a[copy], self.b[copy], None, "threshold", 0.0)
        highest = free.scores(x).amax(0)
        keep = round(active * self.neurons)
        limit = highest.sort(descending=True).values[keep - 1].item() if keep < self.neurons else -1e9
        return Predictor(free.a, free.b, None, "threshold", limit - abs(limit) * 1e-6)

    @property
    def neuron_bytes(self) -> int:
        """Bytes of one neuron's rows."""
        return 3 * self.hidden * self.dtype.itemsize

    @property
    def predictor_bytes(self) -> int:
        """Bytes of both factors."""
        return (self.hidden + self.neurons) * self.rank * self.dtype.itemsize


def dense(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, down)


def relative_error(layer: Layer, x: Tensor, predictor: Predictor, y: Tensor) -> float:
    """Of a result over copy 0, against its selected neurons in fp32."""
    neurons, count = predictor.select(x)
    w, at = layer.weights(0), neurons[: int(count)].long()
    assert w.gate is not None
    wide = [t[at].float() for t in (w.gate, w.up, w.down_t)]
    right = (F.silu(x.float() @ wide[0].T) * (x.float() @ wide[1].T)) @ wide[2]
    return float((y.float() - right).norm() / right.norm())


def cell(layer: Layer, active: float, m: int, compiled: Any) -> dict[str, Any]:
    """One row of results."""
    x = torch.randn(m, layer.hidden, device="cuda").to(layer.dtype)
    weights = [layer.weights(copy) for copy in range(COPIES)]
    predictors = [layer.predictor(copy, x, active) for copy in range(COPIES)]
    small = [p.quantized() for p in predictors]
    lists = [p.select(x) for p in predictors]
    counts = [int(count) for _, count in lists]
    sides: dict[str, _sides.Call] = {
        "dense_eager_us": lambda c: dense(x, layer.gate_up[c], layer.down[c]),
        "dense_compiled_us": lambda c: compiled(x, layer.gate_up[c], layer.down[c]),
        "kernel_us": lambda c: weights[c].run(x, *lists[c]),
        "everything_us": lambda c: predictors[c].run(x, weights[c]),
        "everything_int8_predictor_us": lambda c: small[c].run(x, weights[c]),
        "predict_us": lambda c: predictors[c].select(x)[0],
        "scores_us": lambda c: predictors[c].scores(x),
    }
    us = _sides.device_us(sides, {}, COPIES, SECONDS)
    dense_us = min(us["dense_eager_us"], us["dense_compiled_us"])
    moved = sum(counts) / COPIES * layer.neuron_bytes
    return {
        "active": round(sum(counts) / COPIES / layer.neurons, 4),
        **{name: round(value, 2) for name, value in us.items()},
        "kernel_speedup": round(dense_us / us["kernel_us"], 3),
        "speedup": round(dense_us / us["everything_us"], 3),
        "speedup_int8_predictor": round(dense_us / us["everything_int8_predictor_us"], 3),
        "kernel_gb_per_s": round(moved / us["kernel_us"] / 1e3),
        "everything_gb_per_s": round((moved + layer.predictor_bytes) / us["everything_us"] / 1e3),
        "rel_err": relative_error(layer, x, predictors[0], predictors[0].run(x, weights[0])),
    }


def kernel_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        for dtype in DTYPES:
            layer = Layer(*shape, getattr(torch, dtype))
            _DYNAMO.reset()
            compiled: Any = torch.compile(dense, dynamic=False)
            wanted = [(share, 1) for share in ACTIVE_ELSEWHERE]
            if (shape, dtype) == (SHAPES[0], DTYPES[0]):
                wanted = [*((share, 1) for share in ACTIVE), *((ROWS_ACTIVE, m) for m in ROWS)]
            for share, m in wanted:
                asked = ASKED.get((shape, dtype, share, m))
                row: dict[str, Any] = {
                    "hidden": shape[0],
                    "intermediate": shape[1],
                    "rank": layer.rank,
                }
                row |= {"dtype": dtype, "M": m, "asked_active": share, **cell(layer, share, m, compiled)}
                row |= {"target": asked, "met": asked is None or row["speedup"] >= asked}
                rows.append(row)
                show(row)
            del layer
            torch.cuda.empty_cache()
    return rows


def show(row: dict[str, Any]) -> None:
    asked = "" if row["target"] is None else f" (≥ {row['target']} {'met' if row['met'] else 'MISSED'})"
    print(
        f"{row['hidden']:>5}×{row['intermediate']:<6}{row['dtype']:>9} M={row['M']:<3} "
        f"{100 * row['active']:5.1f} %: "
        f"dense {row['dense_eager_us']:6.1f} / {row['dense_compiled_us']:6.1f} µs, "
        f"kernel {row['kernel_us']:6.1f} ({row['kernel_speedup']:.2f}×, {row['kernel_gb_per_s']} GB/s), "
        f"scores {row['scores_us']:5.1f}, with selection {row['predict_us']:5.1f}, "
        f"everything {row['everything_us']:6.1f} ({row['speedup']:.2f}×{asked}, "
        f"int8 predictor {row['speedup_int8_predictor']:.2f}×) err {row['rel_err']:.1e}",
        file=sys.stderr,
        flush=True,
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("no CUDA device")
    torch.manual_seed(0)
    gpu = torch.cuda.get_device_name()
    with torch.no_grad(), _CUDA.stream(_CUDA.Stream()):
        rows = kernel_rows()
    asked = [row for row in rows if row.get("target") is not None]
    print(f"{sum(row['met'] for row in asked)} of {len(asked)} cells with a target meet it")
    name = _measure.gpu_name("contextual", gpu)
    print(f"wrote {_measure.write(name, _measure.meta(gpu), rows, args.results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
