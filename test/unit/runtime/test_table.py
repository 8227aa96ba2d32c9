"""The table of measurements: kept, shared, and never trusted blindly."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import warnings

import pytest
import torch
from isolated import warm

from sparseflow.runtime.dispatch import Measurement, Table
from sparseflow.runtime.dispatch.cpu_identity import Machine
from sparseflow.runtime.dispatch.cpu_table import DispatchTableWarning, cache_dir

HERE = Machine("A processor", "avx2", 2, "2.13.0", "0123456789abcdef")
ROW = Measurement("float32", 64, 32, 4, 10.5, 12.0, (("cpu", 5.25),), 64, 30, False)


def saved(*rows, machine=HERE):
    table = Table(machine)
    table.add(rows)
    assert table.save()
    return table


@pytest.fixture
def damaged():
    """Writes something else into the table's file, and opens it again."""

    def write(content):
        path = saved(ROW).path
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def document():
    return json.loads(saved(ROW).path.read_text())


def test_what_was_saved_is_read_again():
    other = dataclasses.replace(ROW, m=8)
    saved(other, ROW)
    table = Table(HERE)
    assert table.layer("float32", 64, 32) == [ROW, other]
    assert table.layer("float16", 64, 32) == []
    assert (len(table), table.note) == (2, None)
    assert [m for m, _ in table.policy("float32", 64, 32).measured] == [ROW.m, other.m]
    assert table.policy("float32", 64, 33) is None


def test_a_missing_file_is_an_empty_table_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Table(HERE)) == 0


def test_a_new_measurement_replaces_the_old_one():
    newer = dataclasses.replace(ROW, sparse_us=(("cpu", 1.0),))
    saved(ROW)
    saved(newer)
    assert Table(HERE).layer("float32", 64, 32) == [newer]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Machine)])
def test_another_machine_has_another_table(field):
    saved(ROW)
    other = dataclasses.replace(HERE, **{field: 3 if field == "threads" else "other"})
    assert len(Table(other)) == 0
    assert Table(other).path != Table(HERE).path


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff\xfe", b"[" * 100_000, b'{"rows": NaN}', b"null"])
def test_a_corrupt_file_is_reported_and_replaced(damaged, content):
    path = damaged(content)
    with pytest.warns(DispatchTableWarning, match=f"{path.name}: ignored"):
        table = Table(HERE)
    assert len(table) == 0
    assert "ignored" in table.note
    table.add([ROW])
    assert table.save()
    assert Table(HERE).layer("float32", 64, 32) == [ROW]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "something else"}, "not a table of SparseFlow"),
        ({"version": 99}, "version 99, this release reads version 3"),
        ({"machine": {"cpu": "another"}}, "measured on another machine"),
        ({"rows": 7}, "a row is malformed"),
        ({"rows": [[1, 2]]}, "a row must have the fields"),
        ({"rows": [{**ROW.to_dict(), "m": 0}]}, "m must be a positive integer, got 0"),
        ({"rows": [{**ROW.to_dict(), "m": 1.5}]}, "m must be a positive integer, got 1.5"),
        (
            {"rows": [{**ROW.to_dict(), "sparse_us": {"cpu": -1}}]},
            "sparse_us of cpu must be a positive number",
        ),
        (
            {"rows": [{**ROW.to_dict(), "sparse_us": {"cpu": float("inf")}}]},
            "sparse_us of cpu must be a positive number",
        ),
        ({"rows": [{**ROW.to_dict(), "dense_us": "fast"}]}, "dense_us must be a positive number, got 'fast'"),
        ({"rows": [{**ROW.to_dict(), "dtype": 4}]}, "dtype must be text"),
        ({"rows": [{**ROW.to_dict(), "crowded": 0}]}, "crowded must be true or false"),
        ({"rows": [{**ROW.to_dict(), "spread": -0.1}]}, "spread must be a number from 0"),
        ({"rows": [{**ROW.to_dict(), "tries": 0}]}, "tries must be a positive integer"),
        ({"rows": [{**ROW.to_dict(), "extra": 4}]}, "a row must have the fields"),
    ],
)
def test_a_foreign_file_is_reported_with_the_reason(damaged, change, reason):
    damaged({**document(), **change})
    with pytest.warns(DispatchTableWarning, match=reason):
        assert len(Table(HERE)) == 0


def test_a_folder_in_the_files_place_is_no_crash():
    path = Table(HERE).path
    path.mkdir(parents=True)
    with pytest.warns(DispatchTableWarning, match="ignored"):
        table = Table(HERE)
    table.add([ROW])
    with pytest.warns(DispatchTableWarning, match="can't be written"):
        assert not table.save()
    assert table.layer("float32", 64, 32) == [ROW]
    assert [name for name in os.listdir(path.parent) if name.endswith(".tmp")] == []


def test_a_cache_folder_that_cannot_be_made_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(DispatchTableWarning, match="ignored"):
        table = Table(HERE)
    table.add([ROW])
    with pytest.warns(DispatchTableWarning, match="can't be written"):
        assert not table.save()


def test_two_tables_open_at_once_keep_both_measurements():
    first, second = Table(HERE), Table(HERE)
    first.add([ROW])
    second.add([dataclasses.replace(ROW, m=8)])
    assert first.save()
    assert second.save()
    assert [row.m for row in Table(HERE).layer("float32", 64, 32)] == [4, 8]
    assert len(second) == 2


WRITER = """
import dataclasses, sys, warnings
warnings.simplefilter("error")
from sparseflow.runtime.dispatch import Measurement, Table
from sparseflow.runtime.dispatch.cpu_identity import Machine
number = int(sys.argv[1])
for step in range(20):
    table = Table(Machine("A processor", "avx2", 2, "2.13.0", "0123456789abcdef"))
    table.add([Measurement("float32", 64 + number, 32, 1 + step, 1.0, 1.0, (("cpu", 1.0),), 64, 3, False)])
    assert table.note is None and table.save()
"""


def test_processes_that_write_at_once_lose_nothing_and_read_no_halves(cache):
    writers = [subprocess.Popen([*warm(), "-c", WRITER, str(number)]) for number in range(3)]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0, 0]
    table = Table(HERE)
    assert [len(table.layer("float32", 64 + number, 32)) for number in range(3)] == [20, 20, 20]
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".lock"]


def test_the_cache_folder_is_the_users_unless_told_otherwise(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("SPARSEFLOW_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "sparseflow"


def test_the_machine_is_described_by_what_times_depend_on():
    machine = Machine.here()
    assert machine == Machine.here()
    assert machine.isa == torch.ops.sparseflow.cpu_isa()
    assert machine.threads == torch.get_num_threads()
    assert machine.torch == torch.__version__
    assert machine.cpu
    assert len(machine.library) == 16
