"""What commands print is theirs: no bars, deprecations and advice of torch, transformers and the profiler."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import transformers as tf
from isolated import TRANSFORMERS, warm

from sparseflow.cli.quiet_output import quiet_libraries, quietly
from sparseflow.errors import UnprunedWarning
from sparseflow.support.native_lines import native_lines_without

ASKED = ("PYTHONWARNINGS", "TORCH_LOGS", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")
OURS = re.compile(r".*: (Unpruned|DispatchTable)Warning: .*\n  .*\n")
COMMANDS = {
    "compile": (["{llama}", "{out}"], "no weight of LlamaForCausalLM is 2:4"),
    "eval": (["{llama}", "--text", "{ids}", "--window", "16", "--dense", "{llama}"], "text "),
    "prune": (["{llama}", "{out}"], "7 of 8 linear layers pruned"),
    "profile": (["{llama}", "--seq", "8", "--calls", "2", "--policy", "sparse"], "/"),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    config = tf.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    tf.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(0, 64, 100))
    return {name: str(folder / name) for name in ("llama", "out", "cache")} | {"ids": str(folder / "ids.npy")}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_prints_nothing_foreign(command, paths, tmp_path):
    options, begin = COMMANDS[command]
    env = {name: value for name, value in os.environ.items() if name not in ASKED}
    env |= {"SPARSEFLOW_CACHE_DIR": paths["cache"], "OMP_NUM_THREADS": "1"}
    # What libraries say while they are imported, one command shows for all.
    python = [sys.executable] if command == "compile" else warm(TRANSFORMERS)
    done = subprocess.run(
        [*python, "-m", "sparseflow.cli", command]
        + [option.format(**{**paths, "out": str(tmp_path / "out")}) for option in options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert OURS.sub("", done.stderr) == ""
    assert done.stdout.startswith(begin)
    assert not re.search(r"[Ww]arning|Loading|Writing|it/s|USDT", done.stdout)


def test_only_our_own_warnings_and_errors_pass(recwarn, caplog):
    handler = logging.StreamHandler()
    logger = logging.getLogger("torch.sparseflow_test")
    logger.addHandler(handler)
    try:
        with quiet_libraries():
            warnings.warn("soon gone", FutureWarning, stacklevel=1)
            warnings.warn("an experiment", UserWarning, stacklevel=1)
            warnings.warn("ours", UnprunedWarning, stacklevel=1)
            records = [logger.makeRecord(logger.name, level, "", 1, "text", (), None) for level in (30, 40)]
            assert [bool(handler.filter(record)) for record in records] == [False, True]
            assert not tf.utils.logging.is_progress_bar_enabled()
            assert tf.utils.logging.get_verbosity() == logging.ERROR
        assert [str(found.message) for found in recwarn] == ["ours"]
        assert handler.filters == []
    finally:
        logger.removeHandler(handler)


def test_everything_is_as_before_even_after_an_error():
    state = lambda: (  # noqa: E731
        list(warnings.filters),
        tf.utils.logging.is_progress_bar_enabled(),
        tf.utils.logging.get_verbosity(),
        [list(h.filters) for h in logging.getLogger("torch").handlers],
    )
    before = state()

    @quietly
    def command() -> None:
        assert state() != before
        raise ValueError("an error of the command")

    with pytest.raises(ValueError, match="an error of the command"):
        command()
    assert state() == before


def test_native_lines_are_dropped_in_commands_alone(capfd):
    def write() -> None:
        with native_lines_without("USDT:"):
            os.write(2, b"USDT: started\nan error\n")

    write()
    assert capfd.readouterr().err == "USDT: started\nan error\n"
    with quiet_libraries():
        write()
    assert capfd.readouterr().err == "an error\n"
    write()
    assert "USDT" in capfd.readouterr().err


def test_the_profiler_still_sees_kernels_where_its_news_are_hidden(capfd):
    from sparseflow.profiling.kernels import kernels

    with quiet_libraries():
        found = kernels(lambda: torch.ones(8, 8) @ torch.ones(8, 8), torch.device("cpu"), 2)
    assert any(kernel.kind == "GEMM" for kernel in found)
    assert capfd.readouterr().err == ""
