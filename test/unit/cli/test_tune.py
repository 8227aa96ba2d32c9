"""`sparseflow tune` and `sf.tune` without a GPU: which layers they would tune, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf
from torch import nn

import sparseflow as sf
from sparseflow.cli.main import main
from sparseflow.cli.tune import read_shapes
from sparseflow.compiler.shapes import linear_shapes
from sparseflow.errors import ArgumentError, NativeLibraryError
from sparseflow.runtime.tuning.fill_gpu_table import TuneResult
from sparseflow.runtime.tuning.point import Candidate, TunedPoint

LLAMA = tf.LlamaConfig(
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
    dtype=torch.bfloat16,
)


@pytest.fixture
def tuned(monkeypatch, tmp_path, asked):
    """Calls of the tuner, which measures nothing and returns one point."""
    calls = []

    def tune(shapes, dtypes, *, ms, **options):
        calls.append((list(shapes), list(dtypes), ms and tuple(ms)))
        asked.append(options)
        point = TunedPoint(
            "bfloat16", "bfloat16", 64, 64, 8, 2.0, 4.0, (Candidate("cusparselt", 3, 0, 1.0, 1e-3),), ()
        )
        return TuneResult((point,), (), (), (), tmp_path / "table.json", True)

    monkeypatch.setattr("sparseflow.runtime.tuning.fill_gpu_table.tune", tune)
    monkeypatch.setattr("sparseflow.runtime.gpu.require", lambda device: None)
    monkeypatch.setattr(
        "sparseflow.runtime.tuning.GpuMachine", type("Here", (), {"here": lambda device: None})
    )
    monkeypatch.setattr("sparseflow.runtime.tuning.TunedTable", lambda machine, folder: None)
    return calls


@pytest.fixture
def asked():
    """The options of the calls of the tuner."""
    return []


def test_a_models_layers_are_those_that_compile_would_run():
    with torch.device("meta"):
        model = tf.LlamaForCausalLM(LLAMA).to(torch.bfloat16).eval()
    shapes = linear_shapes(model, None, None, ("lm_head",))
    assert shapes == {torch.bfloat16: [(256, 128), (128, 128), (512, 128), (128, 256)]}


def test_a_plain_module_is_read_linear_by_linear():
    model = nn.ModuleDict({"a": nn.Linear(64, 32), "b": nn.Linear(64, 32), "head": nn.Linear(32, 8)})
    assert linear_shapes(model, None, None, ("head",)) == {torch.float32: [(32, 64)]}


def test_a_configuration_is_tuned_without_weights(tuned, tmp_path, capsys):
    LLAMA.save_pretrained(tmp_path)
    assert main(["tune", str(tmp_path), "--dtype", "bfloat16", "--m", "8", "--m", "16"]) == 0
    shapes, dtypes, ms = tuned[0]
    assert shapes == [(256, 128), (128, 128), (512, 128), (128, 256)]
    assert (dtypes, ms) == ([torch.bfloat16], (8, 16))
    assert "1 points measured" in capsys.readouterr().out


def test_json_holds_the_points(tuned, capsys):
    assert main(["tune", "--shape", "64x64", "--shape", "128×64", "--json"]) == 0
    assert tuned[0][0] == [(64, 64), (128, 64)]
    assert json.loads(capsys.readouterr().out)["measured"][0]["candidates"][0]["algorithm"] == 3


def test_several_dtypes_are_several_tunings(tuned):
    result = sf.tune([(64, 64)], dtypes=[torch.bfloat16, torch.float16])
    assert [dtypes for _, dtypes, _ in tuned] == [[torch.bfloat16, torch.float16]]
    assert len(result.measured) == 1


def test_a_file_of_shapes_is_tuned_in_its_order_each_once(tuned, asked, tmp_path):
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps([{"n": 128, "k": 64, "layers": ["a"]}, [64, 64], {"n": 128, "k": 64}]))
    args = ["--shapes", str(path), "--shape", "32x32", "--effort", "quick", "--deadline", "500"]
    assert main(["tune", *args]) == 0
    assert tuned[0][0] == [(32, 32), (128, 64), (64, 64)]
    assert asked[0]["effort"] == "quick"
    assert 0 < asked[0]["deadline"] <= 500


@pytest.mark.parametrize("text", ["{", "{}", '[{"n": 64}]', "[[64, 0]]", "[[64]]", "[[64.5, 64]]", "[true]"])
def test_a_file_that_lists_no_shapes_is_refused(tmp_path, capsys, text):
    path = tmp_path / "shapes.json"
    path.write_text(text)
    assert main(["tune", "--shapes", str(path)]) == 1
    assert "--shapes" in capsys.readouterr().err


def test_the_shapes_to_ship_can_be_read():
    path = Path(__file__).parents[3] / "tools" / "shapes_to_ship.json"
    found = read_shapes(path)
    assert found[0] == (6144, 4096)
    assert len(found) == len(json.loads(path.read_text())), "a shape is listed twice"
    written = subprocess.run(
        [sys.executable, str(path.with_suffix(".py"))], capture_output=True, text=True, check=True
    )
    assert written.stdout == path.read_text(), "python tools/shapes_to_ship.py --write"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "needs a model or shapes"),
        (["--shape", "64"], "not of the form NxK"),
        (["--shape", "64x64", "--dtype", "int4"], "must be one of bfloat16"),
        (["--shape", "64x64", "--effort", "some"], "effort must be one of"),
        (["--shapes", "/no/such/file"], "can't be read"),
        (["/no/such/folder"], "can't be read"),
        (["folder", "--shape", "64x64"], "not both"),
    ],
)
def test_bad_arguments_are_messages_and_exit_1(args, message, capsys):
    assert main(["tune", *args]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_wrong_usage_is_exit_2(capsys):
    assert main(["tune", "--nonsense"]) == 2
    assert main(["tun"]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_reason_is_given(capsys):
    assert main(["tune", "--shape", "64x64"]) == 1
    assert "CUDA" in capsys.readouterr().err
    with pytest.raises(NativeLibraryError):
        sf.tune([(64, 64)])


@pytest.mark.parametrize("shape", [(0, 64), (64,), (64.5, 64), "64x64", None])
def test_malformed_shapes_are_refused(shape):
    with pytest.raises(ArgumentError, match="a shape is"):
        sf.tune([shape])
