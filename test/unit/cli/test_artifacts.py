"""`sparseflow compile`, `report` and `info`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import zoo
from isolated import BLOCK, warm_python

import sparseflow as sf
from sparseflow.cli.main import main
from sparseflow.integrations.transformers.argument_names import returned_cache
from sparseflow.runtime import kernels


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    zoo.text_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_a_compiled_folder_serves_any_size_and_the_next_token(llama: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    args = [
        "--input",
        "input_ids",
        "--input",
        "attention_mask",
        "--prune",
        "magnitude",
        "--policy",
        "sparse",
        "--json",
    ]
    assert main(["compile", str(llama), str(out), *args]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {layer["decision"] for layer in report["layers"]} == {"sparse", "dense"}
    loaded = sf.load(out)
    with torch.no_grad():
        for batch in (1, 2, 5):
            ids = zoo.tokens(batch, 11)
            whole = loaded(input_ids=ids, attention_mask=torch.ones_like(ids))
            first = loaded(input_ids=ids[:, :10], attention_mask=torch.ones_like(ids[:, :10]))
            cache, mask = returned_cache(first), torch.ones_like(ids)
            last = loaded(input_ids=ids[:, 10:], attention_mask=mask, **{zoo.CACHE: cache})
            torch.testing.assert_close(last.logits[:, -1], whole.logits[:, -1], rtol=1e-4, atol=1e-4)


def test_an_occupied_folder_is_refused_before_anything_is_read(tmp_path: Path, capsys) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert main(["compile", str(tmp_path / "no-model"), str(tmp_path)]) == 1
    assert "something other than an artifact is there" in capsys.readouterr().err


def test_the_report_of_an_artifact_is_that_of_its_compilation(tmp_path: Path, capsys) -> None:
    compiled = sf.compile(
        torch.nn.Sequential(torch.nn.Linear(64, 32)).eval(), (torch.randn(2, 64),), prune="magnitude"
    )
    compiled.save(tmp_path / "artifact")
    assert main(["report", str(tmp_path / "artifact")]) == 0
    assert capsys.readouterr().out.startswith(compiled.report.table(10_000))
    assert main(["report", str(tmp_path / "artifact"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == json.loads(json.dumps(compiled.report.to_dict()))["layers"]
    assert found["artifact"]["versions"]["torch"] == torch.__version__
    assert main(["report", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_info_says_what_there_is_and_why_not_the_rest(capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["info", "--json"]) == 0
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["torch"]["text"].startswith(torch.__version__)
    assert not found["GPU"]["ok"]
    assert "CUDA" in found["GPU"]["text"]
    for name in kernels.names():
        assert found[f"kernel {name}"]["ok"] == (name not in ("cusparselt", "skinny", "tiles", "wide"))
    assert "CUDA" in found["kernel skinny"]["text"]
    assert main(["info"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["✗", "GPU", found["GPU"]["text"]] in lines


def test_info_works_where_the_compiler_is_missing(tmp_path: Path) -> None:
    code = BLOCK + 'from sparseflow.cli.main import main\nassert main(["info"]) == 0'
    done = warm_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "✗ torch-mlir" in done.stdout
