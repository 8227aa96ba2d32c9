"""Merging a user's table into the shipped one of its GPU."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from sparseflow.runtime.tuning import TunedTable

TOOL = Path(__file__).parents[3] / "tools" / "ship_tuned.py"


@pytest.fixture(scope="module")
def ship():
    spec = importlib.util.spec_from_file_location("ship_tuned", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def saved(machine, folder, *points):
    folder.mkdir(exist_ok=True)
    own = TunedTable(machine, folder)
    own.add(points)
    assert own.save()
    return own.path


def rows(path):
    return [(row["m"], row["effort"], row["dense_us"]) for row in json.loads(path.read_text())["rows"]]


def test_a_gpu_without_a_shipped_table_gets_one_of_its_name(ship, machine, point, tmp_path):
    mine = saved(dataclasses.replace(machine, gpu="NVIDIA H100 80GB HBM3"), tmp_path / "mine", point)
    folder = tmp_path / "shipped"
    folder.mkdir()
    assert ship([str(mine), "--tables", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == ["h100-80gb-hbm3-cusparselt-0.10.0.json"]


def test_full_points_replace_and_quick_ones_only_add(ship, machine, point, tmp_path):
    def at(m, us, effort):
        return dataclasses.replace(point, m=m, dense_us=us, effort=effort)

    folder = tmp_path / "shipped"
    shipped = saved(machine, folder, at(1, 1.0, "full"), at(2, 1.0, "quick"), at(4, 1.0, "full"))
    shipped = shipped.rename(folder / "h200.json")
    newer = dataclasses.replace(machine, driver="600.1")
    points = at(1, 2.0, "quick"), at(2, 2.0, "quick"), at(4, 2.0, "full"), at(8, 2.0, "quick")
    assert ship([str(saved(newer, tmp_path / "mine", *points)), "--tables", str(folder)]) == 0
    assert rows(shipped) == [(1, "full", 1.0), (2, "quick", 2.0), (4, "full", 2.0), (8, "quick", 2.0)]
    assert json.loads(shipped.read_text())["machine"]["driver"] == machine.driver
