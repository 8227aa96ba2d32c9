"""Layers that are alike share a line, and nothing else does."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from sparseflow.errors import ArgumentError
from sparseflow.reports.grouping import expected, groups, joined, speedup_at
from sparseflow.reports.report import LayerReport, Range, Report

RANGES = (
    Range(1, 64, "skinny@3", 1.5),
    Range(65, 511, "dense", None),
    Range(512, None, "cusparselt@17", 1.25),
)
SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}


def sparse(name, n, k, error=0.3):
    reason = f"pruned by magnitude ({error:.3f}); measured"
    return LayerReport(name, n, k, "bf16", "sparse", reason, RANGES, 2 * n * k, 9 * n * k // 8, error)


def dense(name, reason, n=64, k=64):
    return LayerReport(name, n, k, "bf16", "dense", reason, (), 2 * n * k, 2 * n * k, 0.0)


def llama(blocks):
    layers = [
        sparse(f"model.layers.{i}.{name}", n, k, 0.3 + i / 1000)
        for i, (name, (n, k)) in itertools.product(range(blocks), SHAPES.items())
    ]
    head = dense("lm_head", "skipped by the pattern 'lm_head'", 128256, 4096)
    return Report([*layers, head], {"name": "Llama", "programs": 2})


@pytest.mark.parametrize("blocks", [1, 16, 80])
def test_a_report_of_a_llama_fits_a_screen(blocks):
    lines = str(llama(blocks)).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(line for line in lines if "proj" in line)
    title = (
        f"model.layers.{{0–{blocks - 1}}}.mlp.up_proj ×{blocks}"
        if blocks > 1
        else "model.layers.0.mlp.up_proj"
    )
    assert sum(title in line for line in lines) == 1


def test_a_report_of_a_hundred_kinds_fits_too():
    report = Report([sparse(f"part{i}x.fc", 64 + i, 64) for i in range(100)], {})
    lines = str(report).splitlines()
    assert len(lines) <= 40
    assert any("76 smaller groups" in line for line in lines)
    whole = report.table(200, expand=True)
    assert all(layer.name in whole for layer in report.layers)


def test_every_layer_is_in_one_group():
    report = llama(5)
    found = groups(report.layers)
    assert sorted(layer.name for group in found for layer in group.layers) == sorted(
        layer.name for layer in report.layers
    )
    assert len(found) == len(SHAPES) + 1
    assert sum(group.bytes for group in found) == sum(layer.bytes for layer in report.layers)
    assert found[0].rel_err == max(layer.rel_err for layer in report.layers)


@pytest.mark.parametrize(
    "change",
    [
        {"N": 65},
        {"K": 65},
        {"dtype": "f16"},
        {"decision": "contextual"},
        {"reason": "another"},
        {"ranges": RANGES[:1]},
        {"name": "blocks.1.other"},
    ],
)
def test_layers_that_differ_are_not_grouped(change):
    one = sparse("blocks.0.fc", 64, 64)
    assert len(groups([one, dataclasses.replace(one, name="blocks.1.fc")])) == 1
    assert len(groups([one, dataclasses.replace(one, **{"name": "blocks.1.fc", **change})])) == 2


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        (["fc1"], "fc1"),
        (["0", "1", "2"], "{0–2}"),
        (["h.0.fc", "h.2.fc", "h.3.fc", "h.9.fc"], "h.{0,2–3,9}.fc"),
        (["h.0.e.1.w1", "h.1.e.0.w1"], "h.{0–1}.e.{0–1}.w1"),
        (["h.10.fc", "h.9.fc"], "h.{9–10}.fc"),
    ],
)
def test_names_that_differ_in_indices_are_one(names, whole):
    assert joined(names) == whole


def test_speedups_are_those_of_the_range():
    assert [speedup_at(RANGES, m) for m in (1, 64, 65, 512, 9999)] == [1.5, 1.5, 1.0, 1.25, 1.25]
    assert speedup_at((), 1) == 1.0


def test_expected_is_time_before_over_time_after():
    layers = [sparse("a", 300, 10), dense("b", "", 100, 10)]
    assert expected(layers, 1) == pytest.approx(4000 / (3000 / 1.5 + 1000))
    unmeasured = dataclasses.replace(layers[0], ranges=(Range(1, None, "cpu", None),))
    assert expected([unmeasured], 1) is None
    assert expected([], 1) is None


def test_one_layer_says_what_runs_for_which_rows():
    report = llama(2)
    text = report.layer("model.layers.1.mlp.up_proj").table()
    assert all(part in text for part in ("1–64", "skinny@3", "1.50×", "512…", "cusparselt@17", "0.301"))
    with pytest.raises(ArgumentError, match=r"model\.layers\.1\.mlp\.up_proj"):
        report.layer("model.layers.1.up_proj")


def test_why_layers_are_dense_is_said_once_for_each_reason():
    report = Report([dense(f"h.{i}.{name}", "too small") for i in range(3) for name in ("a", "b", "c")], {})
    notes = [line for line in str(report).splitlines() if line.startswith("dense: ")]
    assert notes == ["dense: h.{0–2}.a, h.{0–2}.b and 1 more: too small"]
