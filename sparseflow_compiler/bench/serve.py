"""Serve a model dense and sparse, one after the other, and send both the same requests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflow.bench.completions_client import Requests, drive, figures
from sparseflow.bench.vllm_server import NAME, Running, require_vllm, server
from sparseflow.support.text_table import Column, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.25, 0.5, 0.75)
"""Of what the dense server does a second at most: the rates where none are given."""

SATURATED = math.inf
"""The rate at which all requests come at once."""

_WARM = 4
"""Requests that come before a server is measured."""


@dataclass(frozen=True)
class Contender:
    """A model and how it is served.

    Attributes:
        side: ``"dense"`` or ``"sparse"``.
        model: its folder.
        options: of ``vllm serve``, for this side alone.
        serving: options of our method, for ``--additional-config``; None for the dense side.
    """

    side: str
    model: Path
    options: Sequence[str] = ()
    serving: Mapping[str, object] | None = None

    def arguments(self) -> list[str]:
        """Return what ``vllm serve`` is given."""
        if self.serving is None:
            return list(self.options)
        ours = json.dumps({"sparseflow": dict(self.serving)})
        return ["--quantization", "sparseflow", "--additional-config", ours, *self.options]


@dataclass
class Plan:
    """What is measured.

    Attributes:
        requests: at each rate.
        rates: requests a second; none: `SHARES` of what the dense server does at most. All at once is
            always measured, first.
        rounds: starts of each server; rows have the medians.
        limit: seconds that a server may take to start.
        log: folder for the servers' logs.
        done: what was measured: by side and rate, the figures of every round.
    """

    requests: Requests
    rates: list[float]
    rounds: int
    limit: float
    log: Path
    done: dict[tuple[str, float], list[dict[str, float]]] = field(default_factory=dict)


def serve_rows(dense: Contender, sparse: Contender, plan: Plan) -> list[dict[str, Any]]:
    """Measure both contenders in turns; each row has the medians of the rounds for a side and a rate.

    Args:
        dense: comes first, and its saturated throughput sets the rates where the plan has none.
        sparse: the other.
        plan: what is measured; `Plan.done` gets every round.

    Raises:
        MissingDependencyError, ArgumentError: a server can't be started, or broke.
    """
    require_vllm(plugin=sparse.serving is not None)
    for number in range(plan.rounds):
        for contender in (dense, sparse):
            log = plan.log / f"{contender.side}-{number + 1}.log"
            with server(contender.model, contender.arguments(), log, plan.limit) as running:
                _measure(contender.side, running, plan)
    return [_row(side, rate, rounds, plan.requests) for (side, rate), rounds in plan.done.items()]


def _measure(side: str, running: Running, plan: Plan) -> None:
    few = Requests(_WARM, plan.requests.prompt, min(8, plan.requests.answer), plan.requests.vocabulary, 1)
    drive(running.port, NAME, few, SATURATED)
    _measure_at(SATURATED, side, running, plan)
    if not plan.rates:
        most = plan.done[side, SATURATED][-1]["requests_s"]
        plan.rates += [float(f"{share * most:.2g}") for share in SHARES]
    for rate in plan.rates:
        _measure_at(rate, side, running, plan)


def _measure_at(rate: float, side: str, running: Running, plan: Plan) -> None:
    found = figures(drive(running.port, NAME, plan.requests, rate))
    found |= {"start_s": running.start_s, "kv_tokens": running.kv_tokens or math.nan}
    plan.done.setdefault((side, rate), []).append(found)


def _row(side: str, rate: float, rounds: Sequence[dict[str, float]], requests: Requests) -> dict[str, Any]:
    middle = {name: _median([found[name] for found in rounds]) for name in rounds[0]}
    tokens = middle.pop("kv_tokens")
    return {
        "side": side,
        "rate": None if rate == SATURATED else rate,
        "requests": requests.count,
        "prompt": requests.prompt,
        "answer": requests.answer,
        **{name: round(value, 3) for name, value in middle.items()},
        "kv_tokens": None if math.isnan(tokens) else int(tokens),
    }


def _median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


_FIGURES = {
    "requests_s": ("requests/s", 2),
    "tokens_s": ("tokens/s", 1),
    "ttft_p50_ms": ("TTFT P50", 1),
    "ttft_p99_ms": ("P99 ms", 1),
    "tpot_p50_ms": ("TPOT P50", 2),
    "tpot_p99_ms": ("P99 ms", 2),
}
"""The columns of the table: headings and decimals."""


def serve_table(rows: Sequence[dict[str, Any]], width: int = 130) -> str:
    """Return rows as a table: by rate, dense, sparse, and how much better sparse is."""
    columns: list[Column] = [("rate", "right"), ("side", "left")]
    columns += [(name, "right") for name, _ in _FIGURES.values()]
    lines = []
    for rate in dict.fromkeys(row["rate"] for row in rows):
        here = {row["side"]: row for row in rows if row["rate"] == rate}
        at = "all at once" if rate is None else f"{rate:g}/s"
        for side, row in here.items():
            cells = [f"{row[name]:.{decimals}f}" for name, (_, decimals) in _FIGURES.items()]
            lines.append([at, side, *cells])
        if len(here) == 2:
            dense, sparse = here.values()
            lines.append(["", "better by", *(f"{_gain(dense, sparse, name):.2f}×" for name in _FIGURES)])
    first = {row["side"]: row for row in reversed(rows)}
    notes = [
        f"{side}: first answer {row['start_s']:.0f} s after its start"
        + (f", {row['kv_tokens']} tokens in the cache" if row["kv_tokens"] is not None else "")
        for side, row in first.items()
    ]
    notes.append("TTFT: from a request to its first token. TPOT: from one token to the next.")
    return text_table("", columns, lines, notes, width)


def _gain(dense: dict[str, Any], sparse: dict[str, Any], figure: str) -> float:
    ratio: float = (
        dense[figure] / sparse[figure] if figure.endswith("_ms") else sparse[figure] / dense[figure]
    )
    return ratio


def serve_chart(rows: Sequence[dict[str, Any]], path: Path, *, dark: bool = False) -> None:
    """Draw throughput and the medians of waiting over the rate; what came all at once is the last point.

    Args:
        rows: of `serve_rows`.
        path: of the file to write.
        dark: whether to draw on dark ground.

    Raises:
        MissingDependencyError: matplotlib is missing.
        ArgumentError: it can't write the file.
    """
    from sparseflow.reports.charts import chart

    figures_drawn = (("tokens_s", "tokens/s"), ("ttft_p50_ms", "TTFT, ms"), ("tpot_p50_ms", "TPOT, ms"))
    with chart(path, 9.0, 3.0, dark=dark) as picture:
        axes = picture.subplots(1, len(figures_drawn))
        for axis, (name, title) in zip(axes, figures_drawn, strict=True):
            _lines(axis, rows, name)
            axis.set_title(title)
            axis.set_ylim(bottom=0)
            axis.set_xlabel("requests/s")
        axes[0].legend()


def _lines(axis: Axes, rows: Sequence[dict[str, Any]], name: str) -> None:
    rates = sorted({row["rate"] for row in rows if row["rate"] is not None})
    places = {rate: place for place, rate in enumerate([*rates, None])}
    for side in dict.fromkeys(row["side"] for row in rows):
        points = sorted((places[row["rate"]], row[name]) for row in rows if row["side"] == side)
        axis.plot(*zip(*points, strict=True), marker="o", label=side)
    axis.set_xticks(list(places.values()), [f"{rate:g}" if rate is not None else "all" for rate in places])
