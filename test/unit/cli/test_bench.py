"""`sparseflow bench`: both sides' figures, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf

from sparseflow.cli.main import main

LLAMA = tf.LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def llama(tmp_path):
    LLAMA.save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


def test_products_are_rows_that_a_report_reads(capsys, tmp_path):
    options = ["--shape", "64x32", "--m", "1", "--m", "4", "--dtype", "float32", "--device", "cpu"]
    assert main(["bench", "gemm", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["N"], row["K"], row["M"]) for row in found["rows"]] == [(64, 32, 1), (64, 32, 4)]
    for row in found["rows"]:
        assert row["speedup"] == pytest.approx(row["dense_us"] / row["ours_us"], rel=0.05, abs=1e-3)
    assert torch.__version__.startswith(found["meta"]["versions"]["torch"])  # without what it was built for
    (tmp_path / "gemm.json").write_text(json.dumps(found))
    assert main(["report", str(tmp_path / "gemm.json")]) == 0
    assert "| 64×32 |" in capsys.readouterr().out


@pytest.mark.parametrize(("phase", "tokens"), [("prefill", [4, 6]), ("decode", [4])])
def test_a_model_is_timed_dense_and_compiled(llama, capsys, phase, tokens):
    options = ["--layers", "1", "--phase", phase, "--device", "cpu", "--policy", "sparse", "--seconds", "0"]
    options += [text for seq in tokens for text in ("--seq", str(seq))]
    assert main(["bench", "model", llama, *options, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["phase"], row["batch"], row["seq"]) for row in rows] == [(phase, 1, seq) for seq in tokens]
    for row in rows:
        assert min(row["dense_ms"], row["ours_ms"]) > 0
        assert 0 < row["sparse_layers"] < row["layers"]
        assert row["weights_bytes_ours"] < row["weights_bytes_dense"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["gemm", "--shape", "64"], "is not of the form NxK"),
        (["gemm", "--shape", "64x64", "--m", "0"], "must be at least 1"),
        (["gemm", "--shape", "64x64", "--dtype", "int8"], "must be one of"),
        (["gemm", "--shape", "64x64", "--device", "abacus"], "can't be used"),
        (["model", "llama-9"], "the shapes are llama-3-8b"),
        (["model", "gpt2", "--phase", "training"], "must be one of prefill, decode"),
        (["model", "gpt2", "--layers", "0"], "at least one layer"),
        (["model", "gpt2", "--layers", "1", "--batch", "0"], "must be at least 1"),
        (["model", "gpt2", "--layers", "1", "--inner", "fast"], "inner must be one of"),
    ],
)
def test_wrong_options_are_refused(capsys, options, reason):
    assert main(["bench", *options, *(["--device", "cpu"] if "--device" not in options else [])]) == 1
    assert reason in capsys.readouterr().err
