import json

import pytest

from sparseflow.cli.main import main

SMALL = {
    "hidden": 32, "intermediate": 64, "layers": 2, "heads": 4, "kv_heads": 2, "vocab": 96,
    "rates": [0.5, 0.25], "prompts": [5, 9], "tokens": 2, "repeats": 1,
}  # fmt: skip


def test_both_sides_are_measured_for_every_prompt(tmp_path, capsys):
    (tmp_path / "bench.json").write_text(json.dumps(SMALL))
    assert (
        main(["bench", "contextual", "--config", str(tmp_path / "bench.json"), "--tokens", "3", "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["tokens"] == 3
    sides = [(row["prompt"], row["side"]) for row in result["rows"]]
    assert sides == [(5, "dense"), (5, "contextual"), (9, "dense"), (9, "contextual")]
    for row in result["rows"]:
        assert row["ttft_ms_p90"] >= row["ttft_ms_p50"] > 0
        assert row["token_ms_p90"] >= row["token_ms_p50"] > 0
        assert row["weights_mb"] > 0


def test_activations_are_measured_beside_the_floor(tmp_path, capsys):
    shape = {name: value for name, value in SMALL.items() if name != "rates"} | {"layers": 1}
    (tmp_path / "bench.json").write_text(json.dumps(shape))
    command = ["bench", "contextual", "--config", str(tmp_path / "bench.json"), "--method", "activations"]
    assert main([*command, "--left-out", "0.25,0.5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    sides = [(row["prompt"], row["side"]) for row in result["rows"]]
    names = ["dense", "25% left out", "50% left out"]
    assert sides == [(prompt, name) for prompt in (5, 9) for name in names]
    assert all(row["floor_ms"] > 0 and row["speedup"] > 0 for row in result["rows"])
    assert main([*command, "--left-out", "0.25", "--prompts", "5"]) == 0
    assert "floor ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--method", "guesses"], "must be predictors or activations"),
        (["--method", "activations", "--rates", "0.5"], "belongs to method='predictors'"),
        (["--left-out", "0.4"], "belongs to method='activations'"),
        (["--method", "activations", "--left-out", "0.33"], "steps of 0.05"),
        (["--method", "activations", "--left-out", "1"], "up to 0.90"),
        (["--layers", "0"], "layers"),
        (["--rates", "0.5,2"], "shares above 0"),
        (["--layers", "3", "--rates", "0.5,0.2"], "one for each of 3 layers"),
        (["--prompts", "a"], "must be numbers"),
        (["--sparsity", "2:4"], "must be some of contextual"),
        (["--dtype", "int4"], "float32, bfloat16 or float16"),
        (["--heads", "7"], "must divide hidden"),
        (["--config", "nothing.json"], "can't be read"),
        (["--device", "nowhere"], "can't be used"),
    ],
)
def test_wrong_configurations_are_refused(arguments, text, capsys):
    assert main(["bench", "contextual", *arguments]) == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"depth": 3}', "[1]", "{"])
def test_a_file_that_holds_no_configuration_is_refused(content, tmp_path, capsys):
    (tmp_path / "bench.json").write_text(content)
    assert main(["bench", "contextual", "--config", str(tmp_path / "bench.json")]) == 1
    assert "Traceback" not in capsys.readouterr().err
