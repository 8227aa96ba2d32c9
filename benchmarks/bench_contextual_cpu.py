"""Contextual MLPs on the CPU against dense ones: `python benchmarks/bench_contextual_cpu.py`.

One token at a time through a cycle of layers that outgrows the caches, all sides in turns, medians. `ours` is
everything: predict, select, compute. `kernel` computes over lists that are known. The dense side is the
fastest of torch's ways: three products, gate and up in one, and both compiled. With
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 the weights of all sides lie in huge pages, where the system has them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import _measure
import torch
import torch.nn.functional as F
from _sides import in_turns
from torch import Tensor

from sparseflow.contextual.training import usual_rank
from sparseflow.runtime.contextual import ContextualWeights, Predictor

Held = TypeVar("Held", ContextualWeights, Predictor)
Dense = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of x, gate with up, and down."""

DTYPES = ["float32", "bfloat16", "float16", "int8"]
ACTIVE = [0.2, 0.246, 0.3, 0.5]
TARGETS = {0.2: 4.0, 0.246: 3.4, 0.3: 2.7, 0.5: 1.7}  # of everything, float32
SIXTEEN_BIT = 1.7  # times faster again than float32
KERNEL = 0.93  # of the time that the active share of the dense bytes would take
TOKENS = 6
BURST = 4  # layers that one side runs before it is the next one's turn


@dataclasses.dataclass(frozen=True)
class Layer:
    """Dense and contextual weights of one layer, of the same values: ``[2·I, H]`` and down ``[H, I]``."""

    merged: Tensor
    down: Tensor
    weights: ContextualWeights
    predictor: Predictor

    def copy(self) -> Layer:
        """The same in memory of its own; unless quantised, gate and up are those of the dense side."""
        merged, weights = self.merged.clone(), cloned(self.weights)
        if not weights.is_quantized:
            gate, up = merged.chunk(2)
            weights = dataclasses.replace(weights, gate=gate, up=up)
        return Layer(merged, self.down.clone(), weights, cloned(self.predictor))

    @property
    def nbytes(self) -> int:
        """Bytes that the dense side reads."""
        return self.merged.nbytes + self.down.nbytes


def cloned(held: Held) -> Held:
    values = {field.name: getattr(held, field.name) for field in dataclasses.fields(held)}
    tensors: dict[str, Any] = {name: v.clone() for name, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(held, **tensors)


def separate(x: Tensor, merged: Tensor, down: Tensor) -> Tensor:
    gate, up = merged.chunk(2)
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def merged(x: Tensor, merged: Tensor, down: Tensor) -> Tensor:
    gate, up = F.linear(x, merged).chunk(2, -1)
    return F.linear(F.silu(gate) * up, down)


def tokens(predictor: Predictor, rows: int, hidden: int, churn: float) -> list[Tensor]:
    """A walk of hidden states whose selections change by that share from one to the next."""
    start, noise = torch.randn(rows, hidden), torch.randn(TOKENS, rows, hidden)
    low, high = 0.0, 1.0
    for _ in range(20):
        kept = (low + high) / 2
        stepped = kept * start + (1 - kept**2) ** 0.5 * noise[0]
        if changed(predictor, start, stepped) > churn:
            low = kept
        else:
            high = kept
    walk = [start]
    for step in noise[1:]:
        walk.append(kept * walk[-1] + (1 - kept**2) ** 0.5 * step)
    return walk


def changed(predictor: Predictor, x: Tensor, y: Tensor) -> float:
    """The share of x's neurons that y does without."""
    before, after = (set(neurons[: int(count)].tolist()) for neurons, count in map(predictor.select, (x, y)))
    return len(before - after) / max(1, len(before))


class Cycle:
    """Runs one side on layer after layer, token after token.

    Args:
        call: runs it for a token and a layer.
        layers: how many there are.
        start: the first, another for each side, so that none finds what the one before has read.
    """

    def __init__(self, call: Callable[[int, int], Any], layers: int, start: int) -> None:
        self._call, self._layers, self._at = call, layers, start

    def us(self) -> float:
        """Microseconds of one call, over a burst of layers."""
        begin = time.perf_counter()
        for at in range(self._at, self._at + BURST):
            self._call(at // self._layers % TOKENS, at % self._layers)
        self._at += BURST
        return (time.perf_counter() - begin) * 1e6 / BURST


def read(layer: Layer, share: float) -> float:
    """As many bytes as the active neurons have, in one piece each of gate with up and of down."""
    parts = (layer.merged, layer.weights.down_t)
    return sum(
        float(t.view(torch.uint8).view(-1).view(torch.float32)[: int(share * t.nbytes) // 4].sum())
        for t in parts
    )


def make_layers(args: argparse.Namespace, dtype: str) -> list[Layer]:
    """One random layer and its copies, so many that even the fewest active neurons outgrow the caches."""
    hidden, intermediate, quantized = args.hidden, args.intermediate, dtype == "int8"
    stored = torch.bfloat16 if quantized else getattr(torch, dtype)
    wide = torch.randn(2 * intermediate, hidden), torch.randn(hidden, intermediate)
    rank = usual_rank(intermediate, args.rank)
    p = Predictor(
        torch.randn(rank, hidden) / hidden**0.5,
        torch.randn(intermediate, rank) / rank**0.5,
        None,
        "top_k",
        0,
    )
    p = p.quantized() if args.predictor == "int8" else p.to(dtype=getattr(torch, args.predictor))
    merged, down = ((w / w.shape[1] ** 0.5).to(stored) for w in wide)
    gate, up = merged.chunk(2)
    weights = ContextualWeights.of(gate, up, down)
    first = Layer(merged, down, weights.quantized() if quantized else weights, p)
    bytes_read = min(args.active) * first.weights.nbytes
    count = max(args.layers, -(-int(args.cycled_gb * 1e9) // max(1, int(bytes_read))))
    return [first, *(first.copy() for _ in range(min(count, args.most_layers) - 1))]


def selecting(layer: Layer, neurons: int) -> Layer:
    """The layer with a predictor of so many neurons."""
    return dataclasses.replace(layer, predictor=dataclasses.replace(layer.predictor, parameter=neurons))


def dense_ways(with_compiled: bool) -> dict[str, Dense]:
    """Torch's, by name."""
    ways: dict[str, Dense] = {"separate": separate, "merged": merged}
    compiled = {f"{name}_compiled": torch.compile(way) for name, way in ways.items() if with_compiled}
    return ways | compiled


def measure(
    args: argparse.Namespace, dense: dict[str, Dense], layers: list[Layer], active: float, rows: int
) -> dict[str, Any]:
    """One row of the results, but for its dtype."""
    layers = [selecting(layer, round(active * args.intermediate)) for layer in layers]
    first = layers[0]
    floating = first.merged.dtype
    walk = tokens(first.predictor, rows, args.hidden, args.churn)
    churn = [changed(first.predictor, a, b) for a, b in itertools.pairwise(walk)]
    xs = [x.to(floating) for x in walk]
    lists = [first.predictor.select(x) for x in xs]
    shares = [int(count) / args.intermediate for _, count in lists]
    share = sum(shares) / len(shares)

    def run(way: Dense) -> Callable[[int, int], Tensor]:
        return lambda t, i: way(xs[t], layers[i].merged, layers[i].down)

    ways: dict[str, Callable[[int, int], Any]] = {name: run(way) for name, way in dense.items()}
    ways |= {
        "ours": lambda t, i: layers[i].predictor.run(xs[t], layers[i].weights),
        "kernel": lambda t, i: layers[i].weights.run(xs[t], *lists[t]),
        "select": lambda t, i: layers[i].predictor.select(xs[t]),
        "read": lambda t, i: read(layers[i], share),
    }
    step = max(1, len(layers) // len(ways))
    cycles = {name: Cycle(call, len(layers), n * step) for n, (name, call) in enumerate(ways.items())}
    with torch.inference_mode():
        times = in_turns({name: cycle.us for name, cycle in cycles.items()}, args.seconds)
    best = min(dense, key=lambda name: times[name])
    return {
        "hidden": args.hidden,
        "intermediate": args.intermediate,
        "rows": rows,
        "active": active,
        "active_measured": round(share, 4),
        "churn": round(sum(churn) / len(churn), 3),
        "layers": len(layers),
        "predictor": args.predictor,
        "predictor_bytes_share": round(first.predictor.nbytes / first.nbytes, 4),
        "dense_us": round(times[best], 1),
        "dense_way": best,
        "ours_us": round(times["ours"], 1),
        "kernel_us": round(times["kernel"], 1),
        "select_us": round(times["select"], 1),
        "read_us": round(times["read"], 1),
        "dense_gb_per_s": round(first.nbytes / times[best] / 1e3, 1),
        "kernel_gb_per_s": round(share * first.weights.nbytes / times["kernel"] / 1e3, 1),
        "speedup": round(times[best] / times["ours"], 3),
        "kernel_of_ideal": round(times[best] * share / times["kernel"], 3),
        "kernel_of_read": round(times["read"] / times["kernel"], 3),
        "rel_err": error(first, xs[0], lists[0]),
    }


def error(layer: Layer, x: Tensor, chosen: tuple[Tensor, Tensor]) -> float:
    """The kernel's relative error against fp64 over the same neurons, quantisation included."""
    neurons, count = chosen
    at = neurons[: int(count)].long()
    gate, up = (w[at].double() for w in layer.merged.chunk(2))
    exact = separate(x.double(), torch.cat([gate, up]), layer.down[:, at].double())
    return float((layer.weights.run(x, *chosen).double() - exact).norm() / exact.norm())


def judge(rows: list[dict[str, Any]]) -> None:
    """Adds to each row its targets, and whether they are met."""
    wide = {(r["active"], r["rows"]): r["ours_us"] for r in rows if r["dtype"] == "float32"}
    for row in rows:
        asked = row["rows"] == 1 and (row["hidden"], row["intermediate"]) == (3072, 8192)
        if asked and row["dtype"] == "float32":
            row["target"] = TARGETS.get(row["active"])
            row["met"] = row["target"] is None or row["speedup"] >= row["target"]
            row["kernel_met"] = row["kernel_of_ideal"] >= KERNEL
        elif row["dtype"] != "float32" and (row["active"], row["rows"]) in wide:
            row["faster_than_fp32"] = round(wide[row["active"], row["rows"]] / row["ours_us"], 3)
            if asked and row["dtype"] != "int8":
                row["met"] = row["faster_than_fp32"] >= SIXTEEN_BIT


def show(row: dict[str, Any]) -> None:
    """One line, to stderr."""
    print(
        f"{row['dtype']:>8} {row['active']:>6.1%} M={row['rows']:<3} dense {row['dense_us'] / 1e3:>7.2f} ms "
        f"({row['dense_way']}, {row['dense_gb_per_s']} GB/s) ours {row['ours_us'] / 1e3:>6.2f} ms "
        f"{row['speedup']:>5.2f}× kernel {row['kernel_us'] / 1e3:>6.2f} ms, {row['kernel_of_ideal']:.2f} of "
        f"ideal, {row['kernel_of_read']:.2f} of reading; select {row['select_us']:.0f} us, "
        f"churn {row['churn']:.0%}, err {row['rel_err']:.1e}",
        file=sys.stderr,
        flush=True,
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--active", nargs="+", type=float, default=ACTIVE, help="shares of the neurons")
    parser.add_argument("--rows", nargs="+", type=int, default=[1], help="rows of x; their union is read")
    parser.add_argument(
        "--churn", type=float, default=0.1, help="share of the active that changes with each token"
    )
    parser.add_argument(
        "--rank", type=float, default=0.04, help="of the predictor, as a share of the neurons"
    )
    parser.add_argument("--predictor", choices=DTYPES, default="int8", help="what the predictor is stored in")
    parser.add_argument("--layers", type=int, default=4, help="at least")
    parser.add_argument("--most-layers", type=int, default=24, help="what memory allows")
    parser.add_argument("--cycled-gb", type=float, default=1.0, help="active bytes in a cycle, at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring for each row")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out of the dense sides"
    )
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    dense = dense_ways(not args.no_compile)
    rows: list[dict[str, Any]] = []
    for dtype in args.dtypes:
        layers = make_layers(args, dtype)
        for active, m in itertools.product(args.active, args.rows):
            rows.append({"dtype": dtype, **measure(args, dense, layers, active, m)})
            show(rows[-1])
    judge(rows)
    asked = [row for row in rows if row.get("met") is not None]
    print(f"{sum(row['met'] for row in asked)} of {len(asked)} rows with a target meet it")
    if not args.no_write:
        head = _measure.meta(_measure.cpu_name(), threads=args.threads, isa=torch.ops.sparseflow.cpu_isa())
        print(f"wrote {_measure.write('contextual_cpu', head, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
