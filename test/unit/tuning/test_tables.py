"""The GPU's tables: the user's own and the shipped ones, each used only where it holds."""

import dataclasses
import json
import warnings

import pytest

from sparseflow.cli import info
from sparseflow.errors import DispatchTableError
from sparseflow.runtime.dispatch.cpu_table import DispatchTableWarning
from sparseflow.runtime.tuning import GpuMachine, TunedTable, gpu_table, lookup


def saved(machine, *points):
    own = TunedTable(machine)
    own.add(points)
    assert own.save()
    return own


@pytest.fixture
def ship(monkeypatch, tmp_path):
    """Writes a table as a shipped one."""
    folder = tmp_path / "tables"
    folder.mkdir()
    monkeypatch.setattr(gpu_table, "SHIPPED", folder)

    def write(machine, *points, name="h200.json"):
        own = TunedTable(machine, folder)
        own.add(points)
        assert own.save()
        own.path.with_suffix(".lock").unlink()
        return own.path.rename(folder / name)

    return write


def at(point, m, us=10.0):
    return dataclasses.replace(point, m=m, dense_us=us)


def test_points_are_kept_by_layer_ascending_in_m(machine, point, cache):
    own = saved(machine, at(point, 64), point, dataclasses.replace(point, n=64))
    again = TunedTable(machine)
    assert again.layer("bfloat16", 4096, 4096) == [point, at(point, 64)]
    assert (len(again), again.note, again.path) == (3, None, own.path)
    assert own.path.parent == cache
    assert len(own.path.read_text().splitlines()) == 5


def test_each_pattern_has_a_table_of_its_own_and_none_is_shipped(machine, point, ship):
    ship(machine, at(point, 64))
    own = TunedTable(machine, pattern="6:8")
    own.add([point])
    assert own.save()
    assert own.path.name.endswith("-6of8.json")
    assert lookup("bfloat16", 4096, 4096, machine, pattern="6:8") == [point]
    assert lookup("bfloat16", 4096, 4096, machine, pattern="4:6") == []
    assert lookup("bfloat16", 4096, 4096, machine) == [at(point, 64)]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(GpuMachine)])
def test_another_machine_has_another_table(machine, point, field):
    saved(machine, point)
    assert len(TunedTable(dataclasses.replace(machine, **{field: "other"}))) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (b"{", "not readable as JSON"),
        (b"[]", "not a table of SparseFlow"),
        ({"format": "sparseflow.dispatch"}, "not a table of SparseFlow"),
        ({"version": 1}, "version 1, this release reads version 2"),
        ({"machine": {"gpu": "another"}}, "measured on another machine"),
        ({"rows": [{}]}, "a row is malformed"),
    ],
)
def test_a_damaged_or_foreign_file_is_reported_ignored_and_replaced(machine, point, change, why):
    path = saved(machine, point).path
    document = json.loads(path.read_text())
    path.write_bytes(change if isinstance(change, bytes) else json.dumps(document | change).encode())
    with pytest.warns(DispatchTableWarning, match=why):
        own = TunedTable(machine)
    assert len(own) == 0
    own.add([point])
    assert own.save()
    assert len(TunedTable(machine)) == 1
    assert [p.suffix for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_two_tuners_at_once_keep_both_points(machine, point):
    first, second = TunedTable(machine), TunedTable(machine)
    first.add([point])
    second.add([at(point, 32)])
    assert first.save()
    assert second.save()
    assert [p.m for p in TunedTable(machine).layer("bfloat16", 4096, 4096)] == [16, 32]


def test_no_shipped_table_is_no_table(machine, ship):
    assert TunedTable.shipped(machine) is None


def test_a_shipped_table_holds_for_other_drivers_and_torches_and_says_so(machine, point, ship):
    ship(machine, point)
    assert TunedTable.shipped(machine).note is None
    newer = dataclasses.replace(machine, driver="600.1", torch="2.13.0")
    shipped = TunedTable.shipped(newer)
    assert shipped.layer("bfloat16", 4096, 4096) == [point]
    assert shipped.note == "h200.json: tuned with driver 580.95.05, torch 2.11.0+cu130"


@pytest.mark.parametrize("field", ["gpu", "capability", "cusparselt"])
def test_a_shipped_table_of_another_gpu_or_library_is_not_used(machine, point, ship, field):
    ship(machine, point)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TunedTable.shipped(dataclasses.replace(machine, **{field: "other"})) is None


def test_of_several_shipped_tables_the_one_that_differs_least_is_used(machine, point, ship):
    ship(dataclasses.replace(machine, torch="2.9.0", driver="1"), name="a.json")
    ship(dataclasses.replace(machine, torch="2.10.0"), point, name="b.json")
    assert TunedTable.shipped(machine).note == "b.json: tuned with torch 2.10.0"


@pytest.mark.parametrize("text", ["{", "[]", '{"machine": 7}', '{"machine": {"gpu": []}}'])
def test_a_damaged_shipped_table_is_reported_and_the_next_one_used(machine, point, ship, text):
    ship(machine, point, name="whole.json")
    ship(machine, name="broken.json").write_text(text)
    with pytest.warns(DispatchTableWarning, match="broken.json: ignored"):
        assert len(TunedTable.shipped(machine)) == 1


def test_a_shipped_table_is_not_written_to(machine, point, ship):
    text = ship(machine, point).read_text()
    shipped = TunedTable.shipped(machine)
    shipped.add([at(point, 1)])
    with pytest.raises(DispatchTableError, match="not written to"):
        shipped.save()
    assert TunedTable.shipped(machine).path.read_text() == text


def test_tables_of_other_gpus_of_the_architecture_lend_candidates_and_no_times(machine, point, ship):
    for gpu in ("NVIDIA H20", "NVIDIA GH200 480GB", machine.gpu):
        ship(dataclasses.replace(machine, gpu=gpu, driver="1"), point, name=f"{gpu[-4:]}.json")
    ship(dataclasses.replace(machine, gpu="NVIDIA H100 80GB HBM3", cusparselt="0.9.0"), name="old.json")
    ship(dataclasses.replace(machine, gpu="NVIDIA A100", capability="8.0"), name="ampere.json")
    lent = gpu_table.borrowed(dataclasses.replace(machine, torch="2.13.0"))
    assert {other.machine.gpu for other in lent} == {"NVIDIA H20", "NVIDIA GH200 480GB"}
    stranger = dataclasses.replace(machine, gpu="NVIDIA H800")
    assert len(gpu_table.borrowed(stranger)) == 3
    assert lookup("bfloat16", 4096, 4096, stranger) == []


def test_info_says_which_tables_a_gpu_has(machine, point, ship, monkeypatch):
    monkeypatch.setattr("sparseflow.runtime.gpu.unusable", lambda: None)
    monkeypatch.setattr(GpuMachine, "here", lambda device=None: machine)
    assert info._tuned() == "NVIDIA H200: none: the first compilation measures what it needs"
    ship(dataclasses.replace(machine, gpu="NVIDIA H20", torch="2.9"), point, name="h20.json")
    gpu_table._borrowed.cache_clear()
    assert info._tuned() == "NVIDIA H200: candidates borrowed from h20.json of NVIDIA H20"
    saved(machine, point, dataclasses.replace(at(point, 1), effort="quick"))
    ship(dataclasses.replace(machine, torch="2.10"), point, name="h200.json")
    gpu_table._shipped.cache_clear()
    measured = "2 points measured here (1 by quick tuning)"
    assert info._tuned() == f"NVIDIA H200: {measured}; 1 points shipped (h200.json)"


def test_a_table_takes_in_what_others_wrote_also_after_it_wrote_itself(machine, point):
    first = saved(machine, point)
    saved(machine, at(point, 64))
    first.refresh()
    assert sorted(p.m for p in first) == [16, 64]
    first.add([at(point, 1)])
    saved(machine, at(point, 2))
    assert first.save()
    assert sorted(p.m for p in TunedTable(machine)) == [1, 2, 16, 64]
    first.add([at(point, 1, us=3.0)])
    assert first.save()
    assert TunedTable(machine).layer("bfloat16", 4096, 4096)[0].dense_us == 3.0


def test_the_users_own_points_come_before_the_shipped_ones(machine, point, ship):
    ship(machine, point, at(point, 64))
    assert [p.m for p in lookup("bfloat16", 4096, 4096, machine)] == [16, 64]
    own = saved(machine, at(point, 16, us=7.0), at(point, 1))
    assert [(p.m, p.dense_us) for p in lookup("bfloat16", 4096, 4096, machine)] == [
        (1, 10.0),
        (16, 7.0),
        (64, 10.0),
    ]
    assert lookup("float16", 4096, 4096, machine) == []
    assert lookup("bfloat16", 4096, 4096, machine, folder=own.path.parent / "empty") == [
        point,
        at(point, 64),
    ]
