"""What a compilation has measured: quickly and within a time, by a child that stands in for a GPU's."""

import dataclasses
import threading
import time

import pytest
import torch

from sparseflow.errors import TuningError
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.dispatch.store import DispatchTableWarning
from sparseflow.runtime.tuning import (
    QUICK_M,
    GpuMachine,
    TunedTable,
    fill_gpu_table,
    gpu_table,
    lookup,
    missing,
    quick,
)
from sparseflow.runtime.tuning.hardware import Hardware
from sparseflow.runtime.tuning.lock import alone
from sparseflow.runtime.tuning.policies import tuned_policies

SHAPES = [(4096, 4096), (8192, 4096)]
DEVICE = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def gpu(monkeypatch, machine, tmp_path):
    """A GPU that is not there; no table is shipped for it."""
    monkeypatch.setattr(GpuMachine, "here", lambda device=None: machine)
    monkeypatch.setattr(Hardware, "here", lambda index=None: Hardware())
    monkeypatch.setattr(missing, "_LOST", {})
    missing._REFUSED.clear()
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.setattr(gpu_table, "SHIPPED", folder)


@pytest.fixture
def child(monkeypatch, fake):
    """Sets what the measuring process does."""

    def behave(**scenario):
        told = {"done": {"dense_us": 60.0, "unpacked_us": 80.0}} | scenario
        monkeypatch.setattr(fill_gpu_table, "child_command", lambda index: fake(**told))

    behave()
    return behave


@pytest.fixture
def lend(machine):
    """Ships a table of another GPU of the architecture."""

    def write(*points, **changes):
        other = dataclasses.replace(machine, gpu="NVIDIA H100 80GB HBM3", **changes)
        lent = TunedTable(other, gpu_table.SHIPPED)
        lent.add(points)
        assert lent.save()

    return write


def policies(shapes=SHAPES, **options):
    return tuned_policies(shapes, torch.bfloat16, DEVICE, memory="fast", **options)


def measured(machine):
    return [(p.n, p.m, p.effort) for p in TunedTable(machine)]


def test_the_first_use_measures_every_shape_quickly_and_the_next_one_nothing(child, fake, machine):
    found = policies()
    assert all(isinstance(policy, Policy) and policy.pays for policy in found.values())
    assert sorted(measured(machine)) == sorted((n, m, "quick") for n, _ in SHAPES for m in QUICK_M)
    tried = len(fake.tried())
    assert policies() == found
    assert len(fake.tried()) == tried


def test_progress_is_told(child):
    told = []
    policies(SHAPES[:1], progress=lambda done, total, text: told.append((done, total, text)))
    assert told[0] == (0, len(QUICK_M), "4096×4096 bfloat16, M=1")
    assert told[-1][:2] == (len(QUICK_M), len(QUICK_M))


def test_later_points_try_only_what_was_fast_before(child, fake):
    policies()
    tried = fake.tried()
    assert tried[:8] == ["start", "0 0", "1 0", "1 -1", "2 0", "3 0", "4 0", "5 0"]
    assert set(tried[-4:]) == {"5 0", "4 0", "3 0", "2 0"}
    assert tried.count("start") == 1


def test_a_borrowed_table_says_what_to_try_and_nothing_else(child, fake, lend, point):
    lend(*(dataclasses.replace(point, m=m) for m in QUICK_M))
    reasons = policies(SHAPES[:1], tune="off")
    assert reasons[4096, 4096].startswith("no table has 4096×4096 bfloat16 for NVIDIA H200; tune it")
    assert fake.tried() == []
    assert isinstance(policies(SHAPES[:1])[4096, 4096], Policy)
    assert set(fake.tried()) == {"start", "3 0"}


@pytest.mark.parametrize("change", [{"capability": "8.0"}, {"cusparselt": "0.9.0"}])
def test_a_table_of_another_architecture_or_library_lends_nothing(child, fake, lend, point, change):
    lend(*(dataclasses.replace(point, m=m) for m in QUICK_M), **change)
    policies(SHAPES[:1])
    assert "5 0" in fake.tried()


def test_a_borrowed_time_that_is_wrong_here_makes_no_layer_sparse(child, lend, point):
    lend(*(dataclasses.replace(point, m=m, dense_us=100.0) for m in QUICK_M))
    child(done={"dense_us": 5.0})
    found = policies(SHAPES[:1])[4096, 4096]
    assert not found.pays


def test_what_the_time_leaves_is_said_and_measured_by_the_next_compilation(child, monkeypatch, machine):
    child(slow=0.3)
    monkeypatch.setattr(quick, "BASE_SECONDS", 0.0)
    monkeypatch.setattr(quick, "SHAPE_SECONDS", 0.5)
    with pytest.warns(
        DispatchTableWarning, match=rf"of {2 * len(QUICK_M)} points are not tuned yet, quick tuning ended"
    ):
        found = policies()
    assert isinstance(found[4096, 4096], Policy)
    first = measured(machine)
    assert 0 < len(first) < 2 * len(QUICK_M)
    assert {m for n, m, _ in first if n == 4096} <= set(quick.FIRST_M)
    why = found[8192, 4096]
    assert why.startswith(
        "8192×4096 bfloat16 is not tuned on NVIDIA H200 yet: quick tuning ended after its 1 s"
    )
    monkeypatch.setattr(quick, "SHAPE_SECONDS", 60.0)
    child()
    assert all(isinstance(policy, Policy) for policy in policies().values())
    assert len(measured(machine)) == 2 * len(QUICK_M)


def test_a_candidate_that_crashes_costs_itself_alone(child, machine):
    child(do={"5 0": "crash"})
    assert isinstance(policies(SHAPES[:1])[4096, 4096], Policy)
    points = lookup("bfloat16", 4096, 4096, machine)
    assert len(points) == len(QUICK_M)
    assert all(c.algorithm != 5 for p in points for c in p.candidates)


def test_a_process_that_never_works_is_a_reason_and_is_not_started_again(child, fake):
    child(start="exit")
    why = policies()[4096, 4096]
    assert "is not tuned on NVIDIA H200 yet: the measuring process was lost twice" in why
    assert "illegal instruction" in why
    starts = len(fake.tried())
    assert policies()[4096, 4096] == why
    assert len(fake.tried()) == starts


def test_full_tuning_raises_what_quick_tuning_says(child):
    child(start="exit")
    with pytest.raises(TuningError, match="lost twice"):
        policies(tune="full")


def test_what_cannot_be_measured_is_asked_once_and_says_why(child, fake):
    child(refuse=list(QUICK_M))
    why = policies(SHAPES[:1])[4096, 4096]
    assert why.endswith("yet: the library has no such product")
    starts = fake.tried().count("start")
    assert policies(SHAPES[:1])[4096, 4096] == why
    assert fake.tried().count("start") == starts


def test_a_folder_that_cannot_be_written_to_is_a_reason(child, cache):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file")
    with pytest.warns(DispatchTableWarning, match="can't be written"):
        why = policies(SHAPES[:1])[4096, 4096]
    assert "can't be written, so that nothing measured is kept" in why


def test_points_that_were_fully_tuned_are_trusted_for_the_rows_around_them(child, fake, machine, point):
    own = TunedTable(machine)
    own.add(dataclasses.replace(point, m=m) for m in (1, 16, 64, 256, 1024, 4096))
    own.save()
    assert isinstance(policies(SHAPES[:1])[4096, 4096], Policy)
    assert isinstance(policies(SHAPES[:1], tune="full")[4096, 4096], Policy)
    assert fake.tried() == []


def test_full_tuning_measures_quick_points_again(child, machine):
    policies(SHAPES[:1])
    policies(SHAPES[:1], tune="full")
    assert {effort for _, _, effort in measured(machine)} == {"full"}
    assert len(measured(machine)) == 15


@pytest.mark.parametrize("options", [{"tune": "off"}, {"mode": "sparse"}])
def test_nothing_is_started_for_who_wants_nothing_measured(child, fake, options):
    policies(**options)
    assert fake.tried() == []


def test_a_second_process_waits_and_measures_only_what_is_left(child, fake, machine, point):
    path = TunedTable(machine).path.with_suffix(".tuning")
    told, results = [], []
    with alone(path, time.monotonic(), lambda: None):
        second = threading.Thread(
            target=lambda: results.append(policies(SHAPES[:1], progress=lambda *args: told.append(args)))
        )
        second.start()
        while not told:
            time.sleep(0.01)
        own = TunedTable(machine)
        own.add(dataclasses.replace(point, m=m, effort="quick") for m in QUICK_M[1:])
        own.save()
    second.join(60)
    assert "another process tunes this GPU" in told[0][2]
    assert isinstance(results[0][4096, 4096], Policy)
    assert {m for _, m, _ in measured(machine)} == set(QUICK_M)
    assert fake.tried().count("start") == 1
    assert fake.tried().count("3 0") == 1, "one point was left"


def test_who_waited_in_vain_says_so(child, monkeypatch, machine):
    monkeypatch.setattr(quick, "seconds_for", lambda shapes: 0.2)
    path = TunedTable(machine).path.with_suffix(".tuning")
    with alone(path, time.monotonic(), lambda: None), pytest.warns(DispatchTableWarning):
        assert "quick tuning ended after its 0.2 s" in policies(SHAPES[:1])[4096, 4096]
