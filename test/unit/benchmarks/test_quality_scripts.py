"""The scripts that train and prune a language model run from start to end, and write what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "quality"


@pytest.fixture
def corpus(tmp_path):
    """Tokens of which each is nearly decided by the one before."""
    rng = np.random.default_rng(0)
    following = rng.permutation(60)
    tokens = np.zeros(12_000, dtype=np.uint16)
    for place in range(1, len(tokens)):
        tokens[place] = following[tokens[place - 1]] if rng.random() < 0.9 else rng.integers(60)
    np.save(tmp_path / "train.npy", tokens[:10_000])
    np.save(tmp_path / "heldout.npy", tokens[10_000:])
    return tmp_path


def run(script, folder, *options):
    command = [sys.executable, SCRIPTS / script, folder, "--tiny", "--device", "cpu", "--results", folder]
    # Two threads on two busy cores wait for each other most of the time.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), *options], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_model_is_trained_pruned_by_each_method_and_finetuned(corpus):
    run("lm_train.py", corpus)
    curve = json.loads((corpus / "quality_lm_train_cpu.json").read_text())["rows"]
    assert curve[-1]["heldout_nll"] < curve[0]["heldout_nll"] - 0.5
    shown = run("lm_quality.py", corpus, "--methods", "magnitude", "sparsegpt", "unheard-of")
    assert "unheard-of: left out" in shown
    result = json.loads((corpus / "quality_lm_cpu.json").read_text())
    rows = {(row["method"], row["seed"]): row for row in result["rows"]}
    dense = rows["dense", 0]
    assert dense["nll"] == pytest.approx(curve[-1]["heldout_nll"], abs=0.1)
    assert {seed for method, seed in rows if method == "sparsegpt"} == {0, 1, 2}
    tuned = [row for row in result["rows"] if "finetuned" in row["method"]]
    assert len(tuned) == 6
    assert all(row["finetune_tokens"] <= 0.1 * result["meta"]["tokens_trained_on"] for row in tuned[3:])
    assert all(row["of_training_file"] <= 0.1 for row in tuned[:3])
    assert result["meta"]["tokens_trained_on"] == curve[-1]["tokens"]
