"""A result that is older than the sources it measures is refused, unless a note says why it stands."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparseflow.bench.result import COMMIT, checkout_commit

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("result_ages", ROOT / "tools" / "result_ages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def history(tmp_path):
    """Return a function that commits a text to a file of a new repository, and its folder."""

    def git(*words):
        author = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *author, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        git("add", "-A")
        git("commit", "-qm", f"{name} is {text[:20]}")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    return tmp_path, commit


def result(**meta):
    return json.dumps({"meta": meta, "rows": []})


SOURCES = {"speed": ("csrc",)}


def test_a_result_stands_until_its_sources_change(tool, history):
    root, commit = history
    commit("csrc/kernel.cpp", "one")
    commit("benchmarks/results/speed.json", result())
    commit("pages/page.md", "text")
    assert tool.problems(root, SOURCES, {}) == []
    commit("csrc/kernel.cpp", "two")
    (said,) = tool.problems(root, SOURCES, {})
    assert "1 commits changed csrc" in said
    assert "csrc/kernel.cpp is two" in said
    assert tool.problems(root, SOURCES, {"speed": {"why": ""}}) == [said]
    assert tool.problems(root, SOURCES, {"speed": {"why": "of a comment"}}) == []


def test_the_commit_that_a_result_names_counts_not_that_of_the_file(tool, history):
    root, commit = history
    measured = commit("csrc/kernel.cpp", "one")
    commit("csrc/kernel.cpp", "two")
    commit("benchmarks/results/speed.json", result(commit=f"{measured}+"))
    assert tool.age(root, "speed", ("csrc",)).since[0].endswith("csrc/kernel.cpp is two")
    commit("benchmarks/results/speed.json", result(commit="unknown"))
    assert tool.age(root, "speed", ("csrc",)).since == ()


def test_a_note_of_a_new_result_is_spent(tool, history):
    root, commit = history
    commit("csrc/kernel.cpp", "one")
    commit("benchmarks/results/speed.json", result())
    notes = {"speed": {"why": "x"}, "gone": {"why": "y"}}
    assert tool.spent_notes(root, SOURCES, notes) == ["speed", "gone"]
    commit("csrc/kernel.cpp", "two")
    assert tool.spent_notes(root, SOURCES, notes) == ["gone"]


def test_results_that_are_not_there_are_not_listed(tool, history):
    root, commit = history
    commit("benchmarks/results/speed.json", result())
    listed = tool.ages(root, {**SOURCES, "not_measured_yet": ("csrc",)})
    assert [one.name for one in listed] == ["speed"]


def test_a_result_of_unknown_sources_is_refused(tool, history):
    root, commit = history
    commit("benchmarks/results/other.json", result())
    (said,) = tool.problems(root, SOURCES, {})
    assert "other: tools/result_ages.py doesn't say" in said


def test_every_source_is_a_folder_of_the_project(tool):
    assert {
        folder for folders in tool.SOURCES.values() for folder in folders if not (ROOT / folder).is_dir()
    } == set()


def test_a_run_names_its_commit(monkeypatch):
    monkeypatch.setenv(COMMIT, "abc")
    assert checkout_commit() == "abc"
    monkeypatch.delenv(COMMIT)
    if (ROOT / ".git").exists():
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert checkout_commit().removesuffix("+") == head.stdout.strip()
