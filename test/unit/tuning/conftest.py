"""What the tuner's tests share."""

import json
import sys
from pathlib import Path

import pytest

from sparseflow.runtime.tuning import Candidate, GpuMachine, TunedPoint

HERE = GpuMachine("NVIDIA H200", "9.0", "580.95.05", "0.10.0", "2.11.0+cu130")
POINT = TunedPoint(
    "bfloat16", "bfloat16", 4096, 4096, 16, 10.0, 12.0, (Candidate("cusparselt", 3, 0, 6.0, 1e-3),), ()
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder: no test reads or writes the user's tables."""
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def machine():
    return HERE


@pytest.fixture
def point():
    return POINT


@pytest.fixture
def fake(tmp_path):
    """The command of a child that behaves as told; ``fake.tried()`` is what all of them tried."""
    log = tmp_path / "log"

    def command(**scenario):
        told = json.dumps({"count": 6, "log": str(log), **scenario})
        return [sys.executable, str(Path(__file__).with_name("fake_child.py")), told]

    def tried():
        return log.read_text().splitlines() if log.exists() else []

    command.tried = tried
    return command
