"""The scripts that train and prune a language model run from start to end, and write what they say."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from isolated import TRANSFORMERS, warm

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "quality"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with tokens of which each is nearly decided by the one before, and a model of them."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    following = rng.permutation(60)
    tokens = np.zeros(12_000, dtype=np.uint16)
    for place in range(1, len(tokens)):
        tokens[place] = following[tokens[place - 1]] if rng.random() < 0.9 else rng.integers(60)
    np.savez(folder / "train.npz", tokens=tokens[:10_000])
    np.savez(folder / "heldout.npz", tokens=tokens[10_000:])
    run("lm_train.py", folder)
    return folder


def run(script, folder, *options):
    command = [
        *warm(TRANSFORMERS),
        SCRIPTS / script,
        folder,
        "--tiny",
        "--device",
        "cpu",
        "--results",
        folder,
    ]
    # Two threads on two busy cores wait for each other most of the time.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command), *options], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_model_is_trained_pruned_by_each_method_and_finetuned(trained):
    curve = json.loads((trained / "quality_lm_train_cpu.json").read_text())["rows"]
    assert curve[-1]["heldout_nll"] < curve[0]["heldout_nll"] - 0.5
    run("lm_quality.py", trained, "--methods", "magnitude", "sparsegpt", "--calibrations", "4", "5")
    result = json.loads((trained / "quality_lm_cpu.json").read_text())
    shot = {(r["method"], r.get("calibration_seed")): r for r in result["rows"] if "finetune" not in r}
    assert set(shot) == {("dense", None), *itertools.product(("magnitude", "sparsegpt"), (4, 5))}
    assert shot["dense", None]["nll"] == pytest.approx(curve[-1]["heldout_nll"], abs=0.1)
    assert result["meta"]["tokens_trained_on"] == curve[-1]["tokens"]
    of_all, of_file, _ = [row for row in result["rows"] if "finetune" in row]
    assert 0 < of_all["finetune_tokens"] <= 0.1 * curve[-1]["tokens"]
    assert 0 < of_file["finetune_tokens"] <= 0.1 * result["meta"]["train_tokens"]
    lost = shot["magnitude", 4]["perplexity"] - shot["dense", None]["perplexity"]
    left = of_all["perplexity"] - shot["dense", None]["perplexity"]
    assert of_all["perplexity_gap_closed_of_magnitude"] == pytest.approx(1 - left / lost)


@pytest.mark.slow
def test_after_the_deadline_no_row_is_begun(trained):
    run("lm_quality.py", trained, "--methods", "magnitude", "--deadline", "0")
    rows = json.loads((trained / "quality_lm_cpu.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["dense", "magnitude"]
