"""The cost model and quick tuning beside the recorded table: `python benchmarks/bench_cost_model.py`.

Needs no GPU: it is all computed from a shipped table. Each shape is hidden in turn, in all its rows, and
predicted from the others:

- "first choice": what the model would run, dense or its first candidate, beside the recorded best, by dtype
  and M. No choice to run sparse may be below 0.95× dense.
- "quick": for the shapes that are recorded at every M, the policy that quick tuning's points justify beside
  the one that all points do, at every M, in both memory modes; also with what a deadline may leave of it.

A row keeps the four fastest candidates. Another one is counted as slower than the slowest of them by as
much as that is slower than the fastest, and by 5 % at least.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _measure
from _leave_one_out import LEAST, Outcome, geometric_mean, outcomes, over_best, worst

from sparseflow.runtime.dispatch import Timed, choose_by_thresholds
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tuning import DEFAULT_M, QUICK_M, TunedPoint
from sparseflow.runtime.tuning.cost_model import absent_us, by_key
from sparseflow.runtime.tuning.gpu_table import SHIPPED
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.policies import timed
from sparseflow.runtime.tuning.quick import candidates
from sparseflow.runtime.tuning.roofline import fitted
from sparseflow.runtime.tuning.sweep import FIRST_M
from sparseflow.support.arguments import Memory

TABLE = SHIPPED / "h200-cusparselt-0.10.0.json"
MOST_OVER_BEST = 1.12
MOST_OVER_FULL = 1.05
MODES: tuple[Memory, ...] = ("fast", "compressed")

Row = dict[str, Any]
Layer = dict[int, Outcome]


def first_choices(found: Sequence[Outcome]) -> Iterator[Row]:
    """A row for each dtype and M, then one for each dtype, then one for all."""
    dtypes, ms = sorted({o.point.dtype for o in found}), sorted({o.point.m for o in found})
    for dtype, m in [*itertools.product(dtypes, ms), *((dtype, None) for dtype in dtypes), (None, None)]:
        group = [o for o in found if dtype in (o.point.dtype, None) and m in (o.point.m, None)]
        sparse = [o for o in group if o.predicted.sparse]
        yield {
            "what": "first choice",
            "dtype": dtype,
            "M": m,
            "points": len(group),
            "sparse": len(sparse),
            "not_kept": sum(not o.kept for o in sparse),
            "over_best": round(over_best(group), 4),
            "worst_over_dense": round(worst(group), 3) if sparse else None,
            "below": sum(o.point.dense_us / o.us < LEAST for o in sparse),
            "dense_predicted": round(
                geometric_mean(o.predicted.dense_us / o.point.dense_us for o in group), 3
            ),
        }


def layers(found: Sequence[Outcome]) -> list[Layer]:
    """The outcomes of each layer that is recorded at every M, by M."""
    layers: dict[tuple[str, int, int], Layer] = {}
    for o in found:
        layers.setdefault((o.point.dtype, o.point.n, o.point.k), {})[o.point.m] = o
    return [layer for layer in layers.values() if set(layer) >= set(DEFAULT_M)]


def quickly(outcome: Outcome) -> Timed:
    """What quick tuning would measure of a point."""
    point, times = outcome.point, by_key(outcome.point)
    tried = candidates(point.dtype, outcome.predicted.ways)
    ways = {Choice(*key): times.get(key[:2], absent_us(point)) for key in tried}
    return Timed(point.m, point.dense_us, point.unpacked_us, ways)


def run_us(point: TunedPoint, choice: Choice, memory: Memory) -> float:
    """What a choice takes at a recorded point."""
    if choice.is_dense:
        return point.unpacked_us if memory == "compressed" else point.dense_us
    return by_key(point).get((choice.kernel, choice.algorithm), absent_us(point))


def beside_full(layer: Layer, ms: Sequence[int], memory: Memory) -> list[float]:
    """What quick tuning at some M's costs over full tuning, at every M."""
    full = choose_by_thresholds([timed(o.point) for o in layer.values()], memory)
    fast = choose_by_thresholds([quickly(layer[m]) for m in ms], memory)
    return [
        run_us(o.point, fast.choice(m), memory) / run_us(o.point, full.choice(m), memory)
        for m, o in layer.items()
    ]


def quick_rows(found: Sequence[Outcome]) -> Iterator[Row]:
    """A row for each memory mode and set of M's."""
    whole = layers(found)
    for memory, (name, ms) in itertools.product(
        MODES, (("quick", QUICK_M), ("first pass of quick", FIRST_M))
    ):
        over = [factor for layer in whole for factor in beside_full(layer, ms, memory)]
        yield {
            "what": name,
            "memory": memory,
            "rows": list(ms),
            "layers": len(whole),
            "points": len(over),
            "over_full": round(geometric_mean(over), 4),
            "worst_over_full": round(max(over), 3),
        }


def main(argv: Sequence[str]) -> int:
    """Write the rows; returns 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--out", type=Path, default=_measure.RESULTS)
    options = parser.parse_args(argv)
    document = json.loads(options.table.read_text())
    points = [TunedPoint.from_dict(row) for row in document["rows"]]
    found = outcomes(points, Hardware.named(document["machine"]["gpu"]), fitted())
    rows = [*first_choices(found), *quick_rows(found)]
    targets = {"over_best": MOST_OVER_BEST, "worst_over_dense": LEAST, "over_full": MOST_OVER_FULL}
    head = _measure.meta(document["machine"]["gpu"], table=options.table.name, targets=targets)
    print(_measure.write("cost_model_h200", head, rows, options.out))
    overall = next(row for row in rows if row["what"] == "first choice" and row["dtype"] is None)
    missed = overall["over_best"] > MOST_OVER_BEST or worst(found) < LEAST
    missed |= any(row["over_full"] > MOST_OVER_FULL for row in rows if row["what"] == "quick")
    for row in [overall, *(row for row in rows if "over_full" in row)]:
        print({key: value for key, value in row.items() if value is not None and key != "rows"})
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
