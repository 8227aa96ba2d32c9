"""bench_default.py runs from start to end on a CPU, and its file becomes a table."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest
from isolated import TRANSFORMERS, warm

ROOT = Path(__file__).parents[3]
COLUMNS = {
    *("model", "phase", "batch", "seq", "dense_ms", "ours_ms"),
    *("layers_sparse", "layers", "first_output_extra_s"),
}


@pytest.fixture
def tables(monkeypatch):
    """tools/readme_tables.py."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "tools" / "readme_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_tiny_run_writes_rows_of_which_a_table_is_made(tmp_path, tables, monkeypatch):
    script = str(ROOT / "benchmarks" / "bench_default.py")
    options = ["--tiny", "--models", "minilm", "--batches", "1", "--limit", "500"]
    done = subprocess.run(
        [*warm(TRANSFORMERS), script, *options, "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "default_tiny.json").read_text())
    assert [(row["model"], row["phase"]) for row in found["rows"]] == [
        ("llama-tiny", "prefill"),
        ("llama-tiny", "decode"),
        ("minilm", "forward"),
    ]
    assert all(row.keys() >= COLUMNS and row["rel_err"] < 1e-4 for row in found["rows"])
    (tmp_path / "default_tiny.json").rename(tmp_path / "default_cpu.json")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = tables.render("<!-- table: default_cpu -->\n<!-- end -->\n")
    assert [text.count(f"| {name} |") for name in ("llama-tiny", "minilm, depth 1")] == [2, 1]
    assert "bench_default.py --tiny" in text


def test_a_table_that_was_not_measured_yet_says_so_and_others_may_not_lack(tmp_path, tables, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for _ in range(2):
        text = tables.render("<!-- table: default_h200 -->\n<!-- end -->\n")
        assert text.splitlines()[2] == "Not measured yet."
    with pytest.raises(FileNotFoundError):
        tables.render("<!-- table: gemm_h200 -->\n<!-- end -->\n")


def test_the_worst_layer_at_any_m_is_named(tables):
    rows = [
        {"N": 64, "K": 32, "M": m, "ours_us": 1.0, "speedup": s, "met": s >= 0.98, "target": 0.98}
        for m, s in ((1, 2.0), (2, 0.5), (8192, 1.0))
    ]
    text = tables.TABLES["default_h200"](rows)
    assert "1.00× in the geometric mean, at worst 0.50× (64×32, M=2); 2 points reach 0.98×" in text
