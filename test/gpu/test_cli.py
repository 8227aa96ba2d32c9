"""`sparseflow validate` and `sparseflow bench gemm` on a GPU."""

import json

import pytest

from sparseflow.cli.main import main
from sparseflow.runtime.tuning import GpuMachine, TunedTable


def test_the_production_shapes_are_right_by_sparse_kernels(capsys):
    if TunedTable.shipped(GpuMachine.here(0)) is None:
        pytest.skip("no table is shipped for this GPU and version of cuSPARSELt")
    assert main(["validate", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 22
    assert all(row["runs"].startswith(("cusparselt", "skinny")) for row in rows)
    assert all(row["compared"] == row["M"] * row["N"] for row in rows)


def test_few_rows_are_right_too_and_float32_says_that_it_is_dense(capsys):
    few = ["--shape", "1x4096x4096", "--m", "1", "--m", "7", "--m", "64"]
    assert main(["validate", *few]) == 0
    assert "6 of 6 products are right; compared with fp64: every entry." in capsys.readouterr().out
    assert main(["validate", *few, "--json", "--dtype", "float32"]) == 0
    assert all(row["runs"].startswith("dense: ") for row in json.loads(capsys.readouterr().out)["rows"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_products_are_timed_beside_dense(capsys, dtype):
    shape = ["--shape", "4096x4096", "--m", "1", "--m", "1024", "--dtype", dtype]
    assert main(["bench", "gemm", *shape, "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["rows"]:
        assert min(row["dense_us"], row["ours_us"]) > 0
        assert row["rel_err"] < 1e-2
