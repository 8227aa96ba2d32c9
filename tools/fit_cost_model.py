"""Fit the constants of the cost model to a shipped table, and write ``runtime/tuning/cost_model.json``.

    python tools/fit_cost_model.py [runtime/tuning/tables/h200-cusparselt-0.10.0.json]

Rooflines: by the smallest mean square of log(predicted ÷ recorded), by coordinate descent; a kernel's time
is that of its best candidate where it is among those kept. How near points are weighed, and how sure a
choice must be: of a small grid what chooses best for shapes left out, of what is never slower than dense
there. The file says where it comes from, and what choosing the grid's entry by four fifths of the shapes
gives for the others, which is to be within 1.12× of the best and never below 0.95× dense.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from _leave_one_out import LEAST, Outcome, outcomes, over_best, worst  # noqa: E402

from sparseflow.runtime.tuning import TunedPoint  # noqa: E402
from sparseflow.runtime.tuning.hardware import Hardware  # noqa: E402
from sparseflow.runtime.tuning.roofline import FILE, Constants, Near, Product, Side  # noqa: E402

TABLE = ROOT / "runtime" / "tuning" / "tables" / "h200-cusparselt-0.10.0.json"
START = Side(launch=4.0, bandwidth=0.8, flops=0.6, waves=0.2)
LITTLE = 1e-3  # of any constant
FEWEST = 20  # points that a kernel must have in a dtype
FOLDS = 5
BASE = Near(16, 1.0, 0.3, 1.0, 3.0, foreign=0.5, floor=0.05, deviations=1.5, margin=0.05, share=0.5)
PLACES = [
    dataclasses.replace(BASE, count=count, idle=idle)
    for count, idle in itertools.product((8, 16), (2.0, 3.0, 4.0))
]
CAUTION = list(itertools.product((1.0, 1.5, 2.0, 2.5, 3.0), (0.03, 0.05, 0.08, 0.12, 0.16)))
"""Deviations and margin."""

SAFE = 1.0
"""Of dense: the least of choices that constants are chosen by, so that others are not below 0.95×."""


Timed = list[tuple[Product, float]]


def main(argv: Sequence[str]) -> int:
    """Fit, print what is reached, and write the file."""
    path = Path(argv[0]) if argv else TABLE
    document = json.loads(path.read_text())
    points = [TunedPoint.from_dict(row) for row in document["rows"]]
    hardware = Hardware()
    sides = fit_sides(points, hardware)
    tried = list(attempts(points, hardware, sides))
    near, found = choose(tried)
    written = {
        "format": "sparseflow.cost-model",
        "fitted": {
            "by": " ".join(["python", "tools/fit_cost_model.py", *argv]),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "table": path.name,
            "machine": document["machine"],
            "hardware": dataclasses.asdict(hardware),
            "points": len(points),
            "left_out": reached(found),
            "left_out_and_chosen_without": reached(folded(tried)),
        },
        "sides": {
            kernel: {dtype: rounded(side) for dtype, side in found.items()} for kernel, found in sides.items()
        },
        "near": rounded(near),
    }
    FILE.write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(written["fitted"], indent=1))
    return 0


def rounded(constants: Any) -> dict[str, float]:
    """The fields, to four digits."""
    fields = dataclasses.asdict(constants).items()
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in fields}


def fit_sides(points: Sequence[TunedPoint], hardware: Hardware) -> dict[str, dict[str, Side]]:
    """The fitted roofline of dense and of each kernel, by dtype."""
    sides: dict[str, dict[str, Side]] = {}
    kernels = sorted({candidate.backend for point in points for candidate in point.candidates})
    for kernel, dtype in itertools.product(("dense", *kernels), sorted({p.dtype for p in points})):
        times = recorded(points, kernel, dtype)
        if len(times) >= FEWEST:
            side, error = descend(times, hardware, dense=kernel == "dense")
            print(f"{kernel} {dtype}: {side}, {len(times)} points, error {error:.3f}")
            sides.setdefault(kernel, {})[dtype] = side
    return sides


def recorded(points: Iterable[TunedPoint], kernel: str, dtype: str) -> Timed:
    """The times of dense, or of a kernel's best candidate where it is kept."""
    found = []
    for point in points:
        if point.dtype == dtype:
            times = [c.us for c in point.candidates if c.backend == kernel]
            us = point.dense_us if kernel == "dense" else min(times, default=math.nan)
            if us > 0:
                found.append((Product(dtype, point.n, point.k, point.m), us))
    return found


def descend(times: Timed, hardware: Hardware, *, dense: bool) -> tuple[Side, float]:
    """The constants with the least error, and that error."""

    def error(side: Side) -> float:
        logs = (math.log(side.us(product, hardware, dense=dense) / us) for product, us in times)
        return math.sqrt(statistics.fmean(log * log for log in logs))

    side, least, step = START, error(START), 1.5
    while step > 1.001:
        moves = [
            dataclasses.replace(side, **{field.name: max(LITTLE, getattr(side, field.name) * factor)})
            for field in dataclasses.fields(Side)
            for factor in (step, 1 / step)
        ]
        best = min(moves, key=error)
        if error(best) < least:
            side, least = best, error(best)
        else:
            step = math.sqrt(step)
    return Side(**rounded(side)), least


def attempts(
    points: Sequence[TunedPoint], hardware: Hardware, sides: Mapping[str, Mapping[str, Side]]
) -> Iterator[tuple[Near, list[Outcome]]]:
    """The outcomes by each entry of the grid."""
    for place in PLACES:
        found = outcomes(points, hardware, Constants(sides, place))
        for deviations, margin in CAUTION:
            near = dataclasses.replace(place, deviations=deviations, margin=margin)
            yield near, [dataclasses.replace(o, predicted=o.predicted.decided(near)) for o in found]


def choose(tried: Sequence[tuple[Near, list[Outcome]]]) -> tuple[Near, list[Outcome]]:
    """The entry that chooses best, of those that are never too slow, or else the one that is least so."""
    safe = [entry for entry in tried if worst(entry[1]) >= SAFE]
    if not safe:
        return max(tried, key=lambda entry: worst(entry[1]))
    return min(safe, key=lambda entry: over_best(entry[1]))


def folded(tried: Sequence[tuple[Near, list[Outcome]]]) -> list[Outcome]:
    """Outcomes of each shape by the entry that is chosen without its fifth of the shapes."""
    shapes = sorted({(outcome.point.n, outcome.point.k) for outcome in tried[0][1]})
    found = []
    for fold in range(FOLDS):
        held = set(shapes[fold::FOLDS])
        seen = [(near, [o for o in found_ if (o.point.n, o.point.k) not in held]) for near, found_ in tried]
        near, _ = choose(seen)
        found += [o for entry, all_ in tried if entry == near for o in all_ if (o.point.n, o.point.k) in held]
    return found


def reached(found: Sequence[Outcome]) -> dict[str, float]:
    """What first choices are worth."""
    below = sum(o.predicted.sparse and o.point.dense_us / o.us < LEAST for o in found)
    return {
        "over_best": round(over_best(found), 4),
        "worst_over_dense": round(worst(found), 3),
        f"below_{LEAST}": below,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
