"""`sparseflow validate`: right products pass, wrong ones are found wherever they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparseflow import validation
from sparseflow.cli.main import main

SMALL = ["--shape", "3x70x33", "--shape", "100x96x128", "--device", "cpu"]


def test_the_shapes_are_those_of_production():
    shapes = json.loads((Path(__file__).parents[2] / "data" / "shapes.json").read_text())
    assert [list(shape) for shape in validation.PRODUCTION] == shapes["production"]["shapes"]


def test_right_products_pass_in_every_dtype(capsys):
    assert main(["validate", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert {row["dtype"] for row in found["rows"]} == {"float32", "bfloat16", "float16"}
    assert all(0 < row["of_bound"] <= 1 and row["runs"].startswith("cpu") for row in found["rows"])
    assert main(["validate", *SMALL]) == 0
    assert "6 of 6 products are right" in capsys.readouterr().out


def test_rows_can_be_given(capsys):
    assert main(["validate", *SMALL, "--dtype", "float32", "--m", "1", "--m", "17", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["M"], row["N"]) for row in rows] == [(1, 70), (17, 70), (1, 96), (17, 96)]


def corrupted(product, change):
    def wrong(x, packed, **options):
        return change(product(x, packed, **options))

    return wrong


def off_in_the_last_row(y):
    y[-1, -1] += 2e-3 * y.abs().max()
    return y


def off_in_one_column(y):
    y[:, 40] += 1
    return y


def rounded_twice(y):
    return y.to(torch.float16).to(torch.bfloat16).to(y.dtype)


def not_a_number(y):
    y[0, 0] = float("nan")
    return y


@pytest.mark.parametrize("change", [off_in_the_last_row, off_in_one_column, rounded_twice, not_a_number])
def test_a_wrong_product_is_found_and_exits_with_one(capsys, monkeypatch, change):
    monkeypatch.setattr(validation, "sparse_mm", corrupted(validation.sparse_mm, change))
    shape = ["--shape", "100x96x128", "--dtype", "float32", "--device", "cpu", "--sample", "7"]
    assert main(["validate", *shape, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    assert [row["why"] for row in found["rows"]] == ["wrong product"]
    assert main(["validate", *shape]) == 1
    assert "✗" in capsys.readouterr().out


def test_what_cannot_run_is_a_finding(capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("[/dev] is lost\nand more")

    monkeypatch.setattr(validation, "sparse_mm", broken)
    assert main(["validate", *SMALL, "--json"]) == 1
    assert {row["why"] for row in json.loads(capsys.readouterr().out)["rows"]} == {"[/dev] is lost"}
    assert main(["validate", *SMALL]) == 1
    assert "[/dev] is lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--shape", "64x64"], "is not of the form MxNxK"),
        (["--shape", "0x64x64"], "is not of the form MxNxK"),
        (["--m", "0"], "must be at least 1"),
        (["--sample", "-1"], "must be at least 1"),
        (["--dtype", "float8"], "must be one of float32"),
        (["--device", "bogus"], "can't be used"),
        (["--device", "meta"], "can't be used"),
    ],
)
def test_wrong_options_are_refused(capsys, option, reason):
    assert main(["validate", *option]) == 1
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.out == ""
