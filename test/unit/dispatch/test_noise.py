"""Calibrations beside a busy core, simulated from times that were recorded beside one.

`benchmarks/_trace.py` recorded the data: rounds of each point by two threads, and by one, timed by the
processor time that it got. `benchmarks/bench_noise.py` does the same with real load.
"""

from __future__ import annotations

import itertools
import json
import random
import types
from pathlib import Path

import pytest
import torch

from sparseflow.runtime import formats
from sparseflow.runtime.dispatch import (
    MEASURED_M,
    Measurement,
    Table,
    calibrate,
    choose,
    fill_cpu_table,
    measure_cpu,
)
from sparseflow.runtime.dispatch.processor_load import LoadMeter
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.robust import settle

DATA = Path(__file__).parent / "data"
THREADS = 2
RUNS = 20
SHAPES = [(1024, 1024), (768, 3072)]
# What is slower than the best way by less counts as the same choice.
NEAR = 1.05

pytestmark = pytest.mark.filterwarnings("ignore::sparseflow.runtime.dispatch.cpu_table.DispatchTableWarning")


@pytest.fixture(scope="module")
def traces():
    files = {THREADS: "busy.json", 1: "busy_one_thread.json"}
    return {threads: json.loads((DATA / name).read_text()) for threads, name in files.items()}


class Player:
    """Plays recorded rounds from a moment drawn by chance on."""

    def __init__(self, traces, seed):
        self.traces, self.chance = traces, random.Random(seed)

    def turns(self, n, k, m, threads):
        passes = self.traces[threads][f"{n}x{k}x{m}"]
        first = self.chance.randrange(len(passes))
        rounds = [times for block in passes[first:] + passes[:first] for times in block]
        begin = self.chance.randrange(len(passes[first]))
        endless = itertools.islice(itertools.cycle(rounds), begin, None)
        return lambda _: [1e-6 * us for us in next(endless)]


@pytest.fixture
def simulate(monkeypatch, traces, tmp_path):
    """Run a calibration with recorded times: of the number of threads that the load leaves free."""
    chosen = {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: THREADS)
    monkeypatch.setattr(LoadMeter, "free", lambda self, threads: min(threads, chosen["free"]))
    monkeypatch.setattr(LoadMeter, "crowded", lambda self, threads: self.free(threads) < threads)
    for module in (measure_cpu, fill_cpu_table):
        monkeypatch.setattr(module, "sparse_ways", lambda n, k, dtype, m, format: (Choice("cpu"),))
    weights = types.SimpleNamespace(
        random=lambda n, k, dtype, format: types.SimpleNamespace(
            dense=[torch.empty(n, k)], stored=formats.find(format)
        )
    )
    monkeypatch.setattr(measure_cpu, "_Weights", weights)

    def settled(bench, m, threads):
        turns = chosen["player"].turns(bench.n, bench.weights.dense[0].shape[1], m, threads)
        limits = {"enough": measure_cpu.LEAST_SECONDS, "limit": measure_cpu.SECONDS_A_POINT}
        return settle(chosen["spoil"](bench.n, m, turns), most=measure_cpu.MAX_REPS, **limits)

    monkeypatch.setattr(measure_cpu._Bench, "_settle", settled)

    def run(seed, *, free, spoil=None):
        fill_cpu_table.forget()
        chosen.update(player=Player(traces, seed), free=free, spoil=spoil or (lambda n, m, turns: turns))
        table = Table(folder=tmp_path / f"{seed}-{free}-{spoil is None}")
        policies = calibrate(SHAPES, torch.float32, table=table, memory="compressed")
        return policies, {shape: table.layer("float32", *shape) for shape in SHAPES}

    return run


def truth(traces, n, k):
    """What each way took over dense at each M, by all that one thread did."""
    times = {}
    for m in MEASURED_M:
        rounds = [times for block in traces[1][f"{n}x{k}x{m}"] for times in block]
        all_of_them = settle(rounds.__getitem__, least=len(rounds), most=len(rounds), limit=0.0)
        dense, unpacked, cpu = all_of_them.times
        times[m] = {Choice("dense"): unpacked / dense, Choice("cpu"): cpu / dense}
    return times


def same(one, other, times):
    pairs = [(times[m][one.choice(m)], times[m][other.choice(m)]) for m in MEASURED_M]
    return all(max(pair) <= NEAR * min(pair) for pair in pairs)


def agreeing(policies, times):
    """How many of the policies of each shape are the same, at the shape where those are fewest."""
    return min(
        max(sum(same(one[shape], usual[shape], times[shape]) for one in policies) for usual in policies)
        for shape in SHAPES
    )


@pytest.fixture
def times(traces):
    return {shape: truth(traces, *shape) for shape in SHAPES}


def test_beside_a_busy_core_19_of_20_calibrations_give_one_policy(simulate, times):
    runs = [simulate(seed, free=1) for seed in range(RUNS)]
    assert agreeing([policies for policies, _ in runs], times) >= RUNS - 1
    assert all(
        row.crowded and row.threads == 1 for _, layers in runs for row in itertools.chain(*layers.values())
    )


def old_policies(traces, seed):
    """The rule that stood here before: the lower quartile of up to 30 rounds in a quarter of a second."""
    player, policies = Player(traces, seed), {}
    for n, k in SHAPES:
        rows = []
        for m in MEASURED_M:
            turns = player.turns(n, k, m, THREADS)
            rounds = [turns(0)]
            rounds += [turns(1) for _ in range(min(29, max(1, int(0.25 / sum(rounds[0])) - 1)))]
            us = [1e6 * sorted(side)[len(side) // 4] for side in zip(*rounds, strict=True)]
            cpu = (("cpu", us[2]),)
            rows.append(Measurement("float32", n, k, m, us[0], us[1], cpu, n, len(rounds), True))
        policies[n, k] = choose(rows, "compressed")
    return policies


def test_the_data_tell_a_rule_that_does_not_hold(traces, times):
    assert agreeing([old_policies(traces, seed) for seed in range(RUNS)], times) < RUNS - 1


def test_where_the_system_hides_the_load_points_say_that_they_did_not_settle(simulate):
    _, layers = simulate(0, free=THREADS)
    rows = list(itertools.chain(*layers.values()))
    assert sum(not row.settled and row.tries > 1 for row in rows) > len(rows) / 2
    assert not any(row.crowded for row in rows)


def test_a_stall_at_one_point_decides_nothing(simulate, times):
    stalled = set()

    def spoil(n, m, turns):
        """At M = 8 the sparse kernel stands still, whenever it runs, the first time that it is measured."""
        if m != 8 or n in stalled:
            return turns
        stalled.add(n)
        return lambda turn: [*turns(turn)[:2], 0.5]

    plain, _ = simulate(0, free=1)
    spoilt, layers = simulate(0, free=1, spoil=spoil)
    assert stalled == {n for n, _ in SHAPES}
    assert agreeing([plain, spoilt], times) == 2
    assert all(row.tries > 1 for rows in layers.values() for row in rows if row.m == 8)
    assert all(row.speedup(Choice("cpu")) > 1 for rows in layers.values() for row in rows if row.m == 8)
