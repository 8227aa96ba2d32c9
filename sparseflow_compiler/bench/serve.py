"""Serve a model dense and sparse and send both the same requests.

The servers run one after the other, or at once where each has a GPU of its own; then each rate is sent to one
and afterwards to the other, so that only one of them computes at a time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflow.bench.completions_client import Requests, drive, figures
from sparseflow.bench.vllm_server import NAME, Running, Server, require_vllm
from sparseflow.support.text_table import Column, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of what the dense server does a second at most: the rates where none are given."""

SATURATED = math.inf
"""The rate at which all requests come at once."""

_WARM = 4
"""Requests that come before a server is measured."""

_FEWEST = 8
"""Requests at a rate, at least."""

_HALF = "0.45"
"""The share of a GPU's memory that must be free for each of two servers on it."""


@dataclass(frozen=True)
class Contender:
    """A model and how it is served.

    Attributes:
        side: ``"dense"`` or ``"sparse"``.
        model: its folder.
        options: of ``vllm serve``, for this side alone.
        serving: options of our method, for ``--additional-config``; None for the dense side.
        gpu: the only GPU that its server sees, as CUDA_VISIBLE_DEVICES names it; None: all that this process
            sees.
        cache: bytes of its KV cache; None: what the memory leaves. Where both have such a cache, they run at
            once on one GPU.
    """

    side: str
    model: Path
    options: Sequence[str] = ()
    serving: Mapping[str, object] | None = None
    gpu: str | None = None
    cache: int | None = None

    def arguments(self) -> list[str]:
        """Return what ``vllm serve`` is given."""
        options = list(self.options)
        if self.cache is not None:
            options += ["--kv-cache-memory-bytes", str(self.cache), "--gpu-memory-utilization", _HALF]
        if self.serving is None:
            return options
        ours = json.dumps({"sparseflow": dict(self.serving)})
        return ["--quantization", "sparseflow", "--additional-config", ours, *options]

    def server(self, log: Path) -> Server:
        """Return a server that is being started."""
        return Server(self.model, self.arguments(), log, self.gpu)


@dataclass
class Plan:
    """What is measured.

    Attributes:
        requests: at each rate, at most.
        rates: requests a second; none: `SHARES` of what the dense server does at most. All at once is
            always measured, first.
        rounds: of every rate; rows have the medians. Where servers run one after the other, each round starts
            them anew.
        limit: seconds that a server may take to start.
        log: folder for the servers' logs.
        sending: seconds that a rate's requests are sent for, at most; fewer are sent where it would take
            longer.
        deadline: on the clock of `time.monotonic`: of servers that run at once, nothing is begun that would
            end later.
        done: what was measured: by side and rate, the figures of every round.
        left_out: sentences about what the deadline left no time for.
    """

    requests: Requests
    rates: list[float]
    rounds: int
    limit: float
    log: Path
    sending: float = math.inf
    deadline: float = math.inf
    done: dict[tuple[str, float], list[dict[str, float]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def asked(self, rate: float) -> Requests:
        """Return the requests that are sent at a rate."""
        if rate == SATURATED or self.sending == math.inf:
            return self.requests
        return replace(self.requests, count=min(self.requests.count, max(_FEWEST, int(rate * self.sending))))


def serve_rows(dense: Contender, sparse: Contender, plan: Plan) -> Iterator[list[dict[str, Any]]]:
    """Measure both contenders; yield the rows of all that is measured so far, after every rate of a server.

    Each row has the medians of the rounds for a side and a rate. Both servers run at once, and are sent
    requests in turn, if each has a GPU or a cache of its own.

    Args:
        dense: comes first, and its saturated throughput sets the rates where the plan has none.
        sparse: the other.
        plan: what is measured; `Plan.done` gets every round.

    Raises:
        MissingDependencyError, ArgumentError: a server can't be started, or broke.
    """
    require_vllm(plugin=sparse.serving is not None)
    measuring = _at_once if at_once(dense, sparse) else _one_after_the_other
    for _ in measuring((dense, sparse), plan):
        rates = sorted({rate for _, rate in plan.done}, key=lambda rate: (rate != SATURATED, rate))
        places = [(each.side, rate) for each in (dense, sparse) for rate in rates]
        rows = [_row(*place, plan) for place in places if place in plan.done]
        how = {"own_gpus": on_own_gpus(dense, sparse), "at_once": at_once(dense, sparse)}
        yield [row | how for row in rows]


def on_own_gpus(dense: Contender, sparse: Contender) -> bool:
    """Return whether each of two contenders has a GPU of its own."""
    return dense.gpu is not None and sparse.gpu is not None and dense.gpu != sparse.gpu


def at_once(dense: Contender, sparse: Contender) -> bool:
    """Return whether both contenders' servers run at once."""
    return on_own_gpus(dense, sparse) or None not in (dense.cache, sparse.cache)


def _one_after_the_other(contenders: Sequence[Contender], plan: Plan) -> Iterator[None]:
    for number in range(plan.rounds):
        for contender in contenders:
            with contender.server(plan.log / f"{contender.side}-{number + 1}.log") as server:
                running = server.wait(plan.limit)
                _warm_up(running, plan)
                _measure_at(SATURATED, contender.side, running, plan)
                yield
                _choose_rates(contender.side, plan)
                for rate in plan.rates:
                    _measure_at(rate, contender.side, running, plan)
                    yield


def _at_once(contenders: Sequence[Contender], plan: Plan) -> Iterator[None]:
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(contenders)))
        servers = [stack.enter_context(each.server(plan.log / f"{each.side}.log")) for each in contenders]
        answers = [threads.submit(server.wait, plan.limit) for server in servers]
        for ended in wait(answers, return_when=FIRST_EXCEPTION).done:
            ended.result()
        sides = [(each.side, found.result()) for each, found in zip(contenders, answers, strict=True)]
        for _, running in sides:
            _warm_up(running, plan)
        for number in range(plan.rounds):
            yield from _measure_both(SATURATED, number, sides, plan)
            _choose_rates(sides[0][0], plan)
            for rate in plan.rates:
                yield from _measure_both(rate, number, sides, plan)


def _measure_both(
    rate: float, number: int, sides: Sequence[tuple[str, Running]], plan: Plan
) -> Iterator[None]:
    """Send a rate to one side after the other, if there is time for both."""
    seconds = _expected(rate, plan)
    if time.monotonic() + seconds > plan.deadline:
        at = "all at once" if rate == SATURATED else f"{rate:g}/s"
        plan.left_out.append(f"round {number + 1}, {at}: it would take {seconds:.0f} s, past the deadline")
        return
    for side, running in sides:
        _measure_at(rate, side, running, plan)
        yield


def _warm_up(running: Running, plan: Plan) -> None:
    few = replace(plan.requests, count=_WARM, answer=min(8, plan.requests.answer), seed=1)
    drive(running.port, NAME, few, SATURATED)


def _choose_rates(side: str, plan: Plan) -> None:
    if not plan.rates:
        most = plan.done[side, SATURATED][-1]["requests_s"]
        plan.rates += [float(f"{share * most:.2g}") for share in SHARES]


def _expected(rate: float, plan: Plan) -> float:
    """Return the seconds that a rate takes on all sides, 0 before any was measured.

    Its requests come, and the last of them wait no longer than where all come at once.
    """
    saturated = [rounds[-1]["requests_s"] for (_, at), rounds in plan.done.items() if at == SATURATED]
    last = plan.asked(rate).starts(rate)[-1]
    return sum(last + plan.requests.count / most for most in saturated)


def _measure_at(rate: float, side: str, running: Running, plan: Plan) -> None:
    found = figures(drive(running.port, NAME, plan.asked(rate), rate))
    found |= {"start_s": running.start_s, "kv_tokens": running.kv_tokens or math.nan}
    plan.done.setdefault((side, rate), []).append(found)


def _row(side: str, rate: float, plan: Plan) -> dict[str, Any]:
    rounds, requests = plan.done[side, rate], plan.asked(rate)
    middle = {name: _median([found[name] for found in rounds]) for name in rounds[0]}
    tokens = middle.pop("kv_tokens")
    return {
        "side": side,
        "rate": None if rate == SATURATED else rate,
        "requests": requests.count,
        "prompt": requests.prompt,
        "answer": requests.answer,
        "rounds": len(rounds),
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
    if rows[0]["own_gpus"]:
        notes.append("Each server had a GPU of its own; only one worked at a time.")
    elif rows[0]["at_once"]:
        notes.append("Both servers were on one GPU; only one worked at a time.")
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
