"""`sparseflow prune` and `sparseflow eval` on small models in folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import zoo
from safetensors.torch import load_file

import sparseflow as sf
from sparseflow.cli.main import main

WORDS = [f"w{number}" for number in range(zoo.VOCABULARY - 2)]


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    for name in ("llama", "bert"):
        zoo.text_model(name).save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(30)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    np.save(tmp_path / "ids.npy", rng.integers(2, zoo.VOCABULARY, 100).astype(np.uint16))
    return tmp_path


def run(capsys, *args):
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_pruned_decoder_is_saved_and_evaluated_against_the_dense_one(folder, capsys):
    options = ["--method", "sparsegpt", "--calibration", folder / "text.txt", "--length", 16, "--json"]
    code, out, _ = run(capsys, "prune", folder / "llama", folder / "out", "--pattern", "6:8", *options)
    assert code == 0
    report = json.loads(out)
    assert report["pattern"] == "6:8"
    assert report == json.loads((folder / "out" / "sparseflow_prune.json").read_text())
    loaded = sf.finetune.Masks.of(zoo.TEXT["llama"][0].from_pretrained(folder / "out"))
    assert set(loaded.layers) == {layer["name"] for layer in report["layers"] if layer["method"]}

    reads = ["--text", folder / "ids.npy", "--dense", folder / "llama", "--window", 16]
    code, out, _ = run(capsys, "eval", folder / "out", *reads, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["about"] == {"text": str(folder / "ids.npy"), "window": 16, "stride": 8}
    dense, pruned = found["rows"]
    assert (dense["name"], pruned["name"]) == ("llama", "out")
    ids = np.load(folder / "ids.npy").astype(np.int64)
    model = zoo.TEXT["llama"][0].from_pretrained(folder / "out").eval()
    assert pruned["perplexity"] == pytest.approx(sf.evaluation.perplexity(model, ids, window=16).perplexity)
    assert pruned["KL"] > 0
    assert "KL" not in dense
    code, out, _ = run(
        capsys, "eval", folder / "out", "--text", folder / "text.txt", "--plot", folder / "a.svg"
    )
    assert code == 0
    assert "bits per byte" in out.replace("\n", " ")
    assert (folder / "a.svg").exists()


def test_a_decoder_is_permuted_reconstructed_and_resumed_from_a_checkpoint(folder, capsys):
    options = ["--method", "sparsegpt", "--calibration", folder / "text.txt", "--length", 16]
    options += ["--permute", "--reconstruct", "layer", "--checkpoint", folder / "run"]
    for out in ("one", "other"):
        assert run(capsys, "prune", folder / "llama", folder / out, *options)[0] == 0
    one, other = (load_file(folder / out / "model.safetensors") for out in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (folder / "run" / "run.json").exists()
    code, _, err = run(capsys, "prune", folder / "llama", folder / "third", *options, "--seed", "1")
    assert code == 1
    assert "holds a run of another model, other calibration data or other options" in err


def test_a_pruned_encoder_is_compared_by_its_embeddings(folder, capsys):
    options = ["--method", "wanda", "--calibration", folder / "text.txt", "--plot", folder / "a.svg"]
    code, out, _ = run(capsys, "prune", folder / "bert", folder / "out", *options)
    assert code == 0
    assert "linear layers pruned to 2:4" in out
    code, out, _ = run(
        capsys, "eval", folder / "out", "--text", folder / "text.txt", "--dense", folder / "bert", "--json"
    )
    dense, pruned = json.loads(out)["rows"]
    assert (dense["cosine"], dense["top-10 overlap"]) == (pytest.approx(1.0), 1.0)
    assert 0 < pruned["cosine"] < 1
    assert pruned["texts"] == 30


def test_bad_input_is_a_message_and_nothing_is_written(folder, capsys):
    text, llama = folder / "text.txt", folder / "llama"
    cases = [
        (["prune", folder / "none", folder / "out"], "is no folder"),
        (["prune", llama, folder / "bert"], "exists and is not an empty folder"),
        (["prune", llama, folder / "out", "--method", "best"], "method must be one of"),
        (["prune", llama, folder / "out", "--method", "wanda"], "needs calibration data"),
        (["prune", llama, folder / "out", "--reconstruct", "all"], "reconstruct must be one of"),
        (
            ["prune", llama, folder / "out", "--calibration", text, "--length", 4000],
            "fewer than --length 4000",
        ),
        (["prune", llama, folder / "out", "--dtype", "int8"], "must be one of float32"),
        (["prune", llama, folder / "out", "--device", "abacus"], "--device abacus: can't be used"),
        (["prune", llama, folder / "out", "--max-loss", "0.1"], "needs calibration data to measure"),
        (["prune", llama, folder / "out", "--frontier", folder / "f.html"], "give --max-loss or --max-bytes"),
        (["prune", llama, folder / "out", "--max-loss", "1", "--frontier", folder / "f.odd"], "must end in"),
        (["prune", llama, folder / "out", "--ms", "1;2"], "is not numbers with commas"),
        (["eval", folder / "bert", "--text", text], "give --dense"),
        (["eval", llama, "--text", folder / "none.txt"], "can't be read as text"),
        (["eval", llama, "--text", text, "--stride", 2000], "1 ≤ stride ≤ window"),
    ]
    for arguments, message in cases:
        code, _, err = run(capsys, *arguments)
        assert code == 1
        assert message in err
    assert not (folder / "out").exists()


def test_layers_get_patterns_within_bytes_on_the_command_line(folder, capsys):
    options = ["--calibration", folder / "text.txt", "--length", 16, "--max-bytes", "4:6", "--json"]
    options += ["--patterns", "2:4,6:8,dense", "--frontier", folder / "frontier.html"]
    code, out, _ = run(capsys, "prune", folder / "llama", folder / "mixed", *options)
    assert code == 0
    budget = json.loads(out)["budget"]
    assert budget["nbytes"] <= budget["max_bytes"]
    assert {choice["pattern"] for choice in budget["choices"]} <= {"2:4", "6:8", "dense"}
    assert "Loss against saving" in (folder / "frontier.html").read_text()
    claims = {layer["name"]: layer["pattern"] for layer in json.loads(out)["layers"]}
    assert claims == {
        layer["name"]: layer["pattern"]
        for layer in json.loads((folder / "mixed" / "sparseflow_prune.json").read_text())["layers"]
    }


def test_a_budget_is_given_on_the_command_line(folder, capsys, monkeypatch):
    monkeypatch.setattr("sparseflow.runtime.products.which.policies", lambda *_, **__: {})
    options = ["--calibration", folder / "text.txt", "--length", 16, "--max-loss", 1e9, "--json"]
    code, out, _ = run(capsys, "prune", folder / "llama", folder / "out", *options)
    assert code == 0
    budget = json.loads(out)["budget"]
    assert (budget["max_loss"], budget["saved_unit"]) == (1e9, "bytes")
    assert len(budget["choices"]) == 14
    assert all(choice["pattern"] == "2:4" for choice in budget["choices"])
