"""`sparseflow recover` and `sparseflow eval --audit` on small models in folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import zoo
from transformers import PreTrainedTokenizerFast

import sparseflow as sf
from sparseflow.cli.main import main


@pytest.fixture
def folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    zoo.text_model("llama").save_pretrained(tmp_path / "dense")
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, **{f"w{i}": i for i in range(1, 96)}}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").save_pretrained(tmp_path / "dense")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(2, 96, 300))
    (tmp_path / "text.txt").write_text(" ".join(f"w{i % 90}" for i in range(400)))
    assert main(["prune", str(tmp_path / "dense"), str(tmp_path / "pruned")]) == 0
    return tmp_path


def run(capsys, *args):
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_pruned_folder_is_recovered_and_audited(folder, capsys):
    options = ["--text", folder / "text.txt", "--text-share", 1, "--length", 16, "--steps", 4, "--lr", 0.001]
    paths = [folder / "pruned", folder / "dense", folder / "out"]
    code, out, _ = run(capsys, "recover", *paths, *options, "--device", "cpu", "--json")
    assert code == 0
    report = json.loads(out)
    assert report == json.loads((folder / "out" / "sparseflow_recover.json").read_text())
    assert report["after"] <= report["before"]
    assert not list(folder.glob(".out*")), "the checkpoint is gone"
    loaded = sf.finetune.Masks.of(zoo.TEXT["llama"][0].from_pretrained(folder / "out"))
    assert len(loaded.layers) == 14
    code, _, err = run(capsys, "recover", *paths)
    assert (code, "not an empty folder" in err) == (1, True)

    how = ["--audit", "--text", folder / "ids.npy", "--window", 16, "--prompts", 3, "--new-tokens", 4]
    reads = [folder / "out", "--dense", folder / "dense", *how]
    code, out, _ = run(capsys, "eval", *reads, "--html", folder / "page.html")
    assert code == 0
    assert "Perplexity over dense" in out
    assert "Answers side by side" in (folder / "page.html").read_text()

    model = zoo.TEXT["llama"][0].from_pretrained(folder / "out")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, :4] = 1
    model.save_pretrained(folder / "out")
    code, out, _ = run(capsys, "eval", *reads, "--json")
    assert code == 1
    assert "up_proj is said to be 2:4" in json.loads(out)["patterns"]["failures"][0]


def test_what_an_audit_cant_read_is_said(folder, capsys):
    code, _, err = run(capsys, "eval", folder / "dense", folder / "pruned", "--audit")
    assert (code, "reads one model" in err) == (1, True)
    code, _, err = run(capsys, "eval", folder / "dense")
    assert (code, "needs one --text" in err) == (1, True)
    (folder / "pruned" / "tokenizer.json").unlink()
    (folder / "pruned" / "tokenizer_config.json").unlink()
    code, _, err = run(capsys, "eval", folder / "pruned", "--audit")
    assert (code, "no tokenizer" in err) == (1, True)
