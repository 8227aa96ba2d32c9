"""What all commands have in common: exit codes, what is on stdout, no tracebacks, completion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers as tf
from isolated import python

from sparseflow.cli import main as cli
from sparseflow.cli.main import main

COMMANDS = ("bench", "compile", "eval", "info", "profile", "prune", "report", "roi", "tune", "validate")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models that can't be read, each in its own way."""
    root = tmp_path_factory.mktemp("models")
    config = tf.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    ).to_dict()
    contents = {
        "no JSON": "{ no",
        "a list": "[1, 2]",
        "wrong type": json.dumps({**config, "hidden_size": "many"}),
        "negative": json.dumps({**config, "hidden_size": -4}),
        "odd heads": json.dumps({**config, "hidden_size": 63}),
        "unknown kind": json.dumps({**config, "model_type": "alien"}),
        "no weights": json.dumps(config),
        "corrupt weights": json.dumps(config),
    }
    for name, text in contents.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(text)
    (root / "corrupt weights" / "model.safetensors").write_bytes(b"\xff" * 500)
    (root / "empty").mkdir()
    (root / "a file").write_text("text")
    return root


BAD_MODELS = (
    "no JSON",
    "a list",
    "wrong type",
    "negative",
    "odd heads",
    "unknown kind",
    "no weights",
    "corrupt weights",
    "empty",
    "a file",
    "nowhere",
)


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_cannot_be_read_is_a_message_and_exit_1(folders, tmp_path, capsys, name):
    model = str(folders / name)
    text = tmp_path / "text.txt"
    text.write_text("some text")
    commands = [["compile", model, str(tmp_path / "out")], ["prune", model, str(tmp_path / "pruned")]]
    commands += [["eval", model, "--text", str(text)], ["report", model]]
    if name not in ("no weights", "corrupt weights"):  # these read the configuration alone
        commands += [["profile", model, "--device", "cpu"], ["tune", model], ["bench", "model", model]]
    for command in commands:
        assert main(command) == 1, command
        captured = capsys.readouterr()
        assert "sparseflow: error: " in captured.err
        assert name in captured.err
        assert captured.out == ""


@pytest.mark.parametrize(
    "args", [["--no-such-option"], ["no-such-command"], ["validate", "--m", "many"], ["report"]]
)
def test_wrong_usage_is_exit_2(capsys, args):
    assert main(args) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "/x"), 1, "Permission denied"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"), 1, "out of memory"),
    ],
)
def test_what_ends_a_command_is_said_in_a_line(capsys, monkeypatch, error, code, message):
    def fails(**_):
        raise error

    monkeypatch.setattr(cli, "app", fails)
    assert main(["info"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_reader_that_stops_reading_gets_no_traceback(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"rows": [{"a": i, "b": "x" * 99} for i in range(5000)]}))
    command = f"{sys.executable} -m sparseflow.cli report x.json | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("#")
    assert done.stderr == ""


def test_help_lists_every_command_and_imports_nothing_heavy(tmp_path):
    code = """
        import sys
        from sparseflow.cli.main import main
        assert main(["--help"]) == 0
        heavy = {"torch", "torch_mlir", "transformers", "numpy", "jinja2", "matplotlib"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(f" {name} " in done.stdout for name in COMMANDS)


def test_a_shell_can_complete_commands(tmp_path):
    script = Path(sys.executable).with_name("sparseflow")
    environment = {"_SPARSEFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "sparseflow val", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["validate"]
