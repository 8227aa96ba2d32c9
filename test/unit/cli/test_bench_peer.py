"""llama.cpp's own benchmark beside ours: its JSON becomes rows, and what it can't do is refused."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
import zoo

from sparseflow.bench.llama_cpp import llama_cpp_rows
from sparseflow.cli.main import main
from sparseflow.errors import ArgumentError

RECORD = {
    "build_commit": "8cf427ff",
    "build_number": 5163,
    "cpu_info": "AMD EPYC",
    "backends": "CPU",
    "model_filename": "small.gguf",
    "model_type": "llama 256M Q4_1",
    "model_size": 91_000_000,
    "model_n_params": 134_515_008,
    "n_threads": 2,
    "type_k": "f16",
    "n_prompt": 0,
    "n_gen": 0,
    "n_depth": 0,
    "avg_ns": 888_888_888,
    "avg_ts": 72.0,
}
"""A record of llama-bench, with the fields of its README that a reader may want."""


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A program that answers as llama-bench does: 14 ms a step, 2 ms a token of the prompt."""
    return program(
        tmp_path,
        f"""
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert given["-o"] == "json" and given["-ngl"] == "0", given
record = {RECORD!r}
record.update(n_prompt=int(given["-p"]), n_gen=int(given["-n"]), n_threads=int(given["-t"]))
each = 14_000_000 * record["n_gen"] + 2_000_000 * record["n_prompt"]
record["samples_ns"] = [each, 9 * each, each + 1000][: int(given["-r"])]
print("loading a model", file=sys.stderr)
print(json.dumps([record]))
""",
    )


def program(folder: Path, code: str) -> Path:
    path = folder / "llama-bench"
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_a_row_has_the_medians_of_both_tests(bench: Path, gguf: Path) -> None:
    first, second = llama_cpp_rows(bench, [gguf], [128, 512], 64, 3, 2)
    assert (first["model"], first["format"], first["side"]) == (
        "small",
        "llama 256M Q4_1",
        "llama.cpp 8cf427ff",
    )
    assert (first["batch"], first["context"], first["threads"], first["bytes"]) == (1, 128, 2, 91_000_000)
    assert (first["device_ms"], first["tokens_s"], first["first_ms"]) == (14.0, 71.43, 256.0)
    assert second["first_ms"] == 1024.0


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit('error: invalid parameter -d')", "invalid parameter -d"),
        ("print('| model | t/s |')", "something else than one record"),
        ("print('[]')", "something else than one record"),
        ('print(\'[{"model_type": "llama"}]\')', "KeyError"),
    ],
    ids=["fails", "a table", "no record", "other fields"],
)
def test_what_is_no_llama_bench_is_named(tmp_path: Path, gguf: Path, code: str, why: str) -> None:
    with pytest.raises(ArgumentError, match=why):
        llama_cpp_rows(program(tmp_path, code), [gguf], [8], 4, 1, 1)


def test_a_missing_model_is_named(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"absent\.gguf is no file"):
        llama_cpp_rows(bench, [tmp_path / "absent.gguf"], [8], 4, 1, 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--peer", "vllm=x", "--gguf", "x"], "is not of the form llama.cpp=PATH"),
        (["--peer", "llama.cpp=x"], "needs a model"),
        (["--gguf", "x"], "is for a peer"),
        (["--peer", "llama.cpp=x", "--gguf", "x", "--batch", "2"], "decodes one sequence"),
    ],
)
def test_what_the_peer_cannot_run_is_refused_first(
    capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    assert main(["bench", "generate", "gpt2", "--device", "cpu", *options]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.slow
def test_decoding_is_timed_dense_and_compiled_beside_a_read_and_a_peer(
    bench: Path, gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = str(tmp_path / "llama")
    zoo.text_model("llama").save_pretrained(llama)
    options = ["--context", "8", "--tokens", "4", "--repeats", "1", "--device", "cpu", "--policy", "sparse"]
    peer = ["--peer", f"llama.cpp={bench}", "--gguf", str(gguf)]
    assert main(["bench", "generate", llama, *options, "--no-torch-compile", *peer, "--json"]) == 0
    ours, theirs = json.loads(capsys.readouterr().out)["rows"]
    assert (ours["batch"], ours["context"], ours["layers"]) == (1, 8, 2)
    assert min(ours[name] for name in ("floor_ms", "device_ms", "dense_ms", "first_ms", "dense_first_ms")) > 0
    assert ours["dense_tokens_s"] == pytest.approx(1e3 / ours["dense_ms"], rel=0.02)
    assert theirs["context"] == 8
    assert theirs["tokens_s"] == 71.43
