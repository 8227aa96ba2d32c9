"""`sparseflow profile` on a GPU: what its figures say of the kernels that ran."""

from __future__ import annotations

import json

import pytest

from sparseflow.cli.main import main

LAYERS = 2
PRODUCTS = {"inductor": 7 * LAYERS + 1, "compiled": 4 * LAYERS + 1}
"""Of a Llama: q, k, v, o, gate, up, down and the head; compiled, those that read the same are one."""


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_profile_of_a_llama_counts_each_product_once(phase, capsys):
    options = ["--layers", str(LAYERS), "--seq", "512", "--policy", "sparse", "--phase", phase]
    assert main(["profile", "llama-3-8b", *options, "--inner", "inductor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for side in (found["dense"], found["compiled"]):
        kernels = side["kernels"]
        assert sum(side["shares"].values()) == pytest.approx(100)
        # A product may be cut into several kernels, of which all but one only add.
        products = sum(k["calls"] for k in kernels if k["kind"] == "GEMM" and "reduce" not in k["name"])
        assert products >= PRODUCTS[side["title"]]
        assert [k for k in kernels if k["kind"] == "attention"]
        assert all(k["name"].startswith("Mem") for k in kernels if k["kind"] == "other")
        assert all(k["calls"] == int(k["calls"]) for k in kernels)
    assert found["ceiling"] > 0  # whether sparse is faster is no question for a test
