"""`sparseflow profile` on small configurations, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as tf

from sparseflow.cli.main import main

LLAMA = tf.LlamaConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
)
QUICK = ["--layers", "1", "--seq", "8", "--calls", "2", "--policy", "sparse", "--device", "cpu"]


@pytest.fixture
def llama(tmp_path):
    LLAMA.save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_configuration_is_profiled_to_json_and_a_chart(llama, tmp_path, capsys, phase):
    chart = tmp_path / "p.png"
    assert main(["profile", llama, *QUICK, "--phase", phase, "--json", "--chart", str(chart)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["meta"]["layers"] == 1
    assert sum(found["dense"]["shares"].values()) == pytest.approx(100)
    assert {k["name"] for k in found["compiled"]["kernels"]} > {"sparseflow::linear"}
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_images_have_their_own_size(tmp_path, capsys):
    config = tf.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=32,
        patch_size=16,
    )
    config.save_pretrained(tmp_path)
    assert main(["profile", str(tmp_path), *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "ceiling" in shown
    assert "seq" not in shown
    assert main(["profile", str(tmp_path), *QUICK, "--phase", "decode"]) == 1
    assert "no cache to decode with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--phase", "training"], "must be one of prefill, decode"),
        (["--layers", "0"], "at least one layer"),
        (["--batch", "0"], "at least 1"),
        (["--seq", "100000"], "has 2048 positions"),
        (["--dtype", "int8"], "must be one of float32"),
        (["--device", "abacus"], "can't be used"),
        (["--policy", "fast"], "policy must be one of"),
        (["--calls", "0"], "calls must be at least 1"),
        (["--phase", "decode", "--calls", "500"], "room for 64 calls"),
        (["--chart", "/no/such/folder/p.png"], "there is no folder"),
    ],
)
def test_bad_options_are_messages_and_exit_1(llama, options, message, capsys):
    assert main(["profile", llama, *QUICK, *options]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_an_unknown_model_lists_the_built_in_shapes(tmp_path, capsys):
    assert main(["profile", "llama-9"]) == 1
    assert "llama-3-8b, llama-3-70b" in capsys.readouterr().err
    assert main(["profile", str(tmp_path)]) == 1
    assert "can't be read" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_reason_is_given(llama, capsys):
    assert main(["profile", llama, *QUICK, "--device", "cuda"]) == 1
    assert "try --device cpu" in capsys.readouterr().err
