"""Benchmarks that share a GPU are timed one after the other."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from _gpus import TURNS, a_turn


def other(taken: threading.Event) -> threading.Thread:
    """Another benchmark, which waits for its turn."""

    def run() -> None:
        with a_turn():
            taken.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_one_that_shares_the_file_waits_for_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TURNS, str(tmp_path / "turns"))
    taken = threading.Event()
    with a_turn():
        thread = other(taken)
        assert not taken.wait(0.2)
    thread.join(10)
    assert taken.is_set()


def test_without_a_file_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TURNS, raising=False)
    taken = threading.Event()
    with a_turn():
        other(taken).join(10)
    assert taken.is_set()
