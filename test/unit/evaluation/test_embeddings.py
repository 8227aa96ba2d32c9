"""Embeddings, neighbours, reports and plots."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import zoo

import sparseflow as sf
from sparseflow.errors import ArgumentError, EvaluationError, MissingDependencyError
from sparseflow.evaluation import EvaluationReport, compare_embeddings, embed, plots
from sparseflow.evaluation.layer_plot import error_by_layer


def test_overlap_counts_shared_neighbours_by_brute_force():
    torch.manual_seed(0)
    dense = torch.randn(30, 8)
    found = dense + 0.5 * torch.randn(30, 8)
    scores = compare_embeddings(found, dense, k=4)
    shares = []
    for place in range(30):
        near = []
        for e in (dense, found):
            cosines = [
                (torch.cosine_similarity(e[place], e[j], dim=0).item(), j) for j in range(30) if j != place
            ]
            near.append({j for _, j in sorted(cosines)[-4:]})
        shares.append(len(near[0] & near[1]) / 4)
    assert scores.overlap == pytest.approx(sum(shares) / 30)
    cosine = torch.cosine_similarity(found, dense)
    assert (scores.cosine, scores.cosine_min) == (pytest.approx(cosine.mean()), pytest.approx(cosine.min()))
    assert compare_embeddings(3 * dense, dense).overlap == 1.0


def test_padding_does_not_change_an_embedding():
    torch.manual_seed(0)
    model, ids = zoo.text_model("bert"), zoo.tokens(2, 6)
    alone = embed(model, [{"input_ids": ids, "attention_mask": torch.ones(2, 6, dtype=torch.long)}])
    padded = torch.cat((ids, zoo.tokens(2, 3)), 1)
    mask = torch.tensor([[1] * 6 + [0] * 3] * 2)
    torch.testing.assert_close(embed(model, [{"input_ids": padded, "attention_mask": mask}]), alone)


def test_compiled_models_are_scored_like_others():
    model, batch = zoo.text_model("bert"), {"input_ids": zoo.tokens(2, 6)}
    compiled = sf.compile(model, policy="sparse")  # nothing is 2:4, so nothing changes
    torch.testing.assert_close(embed(compiled, [batch]), embed(model, [batch]))


def test_wrong_embeddings_are_refused():
    with pytest.raises(ArgumentError, match="more than 10 texts"):
        compare_embeddings(torch.rand(10, 4), torch.rand(10, 4))
    with pytest.raises(ArgumentError, match="holds no batch"):
        embed(zoo.text_model("bert"), [])
    with pytest.raises(EvaluationError, match="gives no last_hidden_state"):
        embed(zoo.text_model("llama"), [{"input_ids": zoo.tokens(1, 4)}])


def test_a_report_shows_every_figure(tmp_path):
    report = EvaluationReport({"window": 16})
    report.add("dense", perplexity=12.345678)
    report.add("pruned", perplexity=20.0, kl=0.25)
    assert all(text in report.table() for text in ("window 16", "12.35", "pruned", "0.25"))
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()


def test_plots_are_written_and_name_what_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    report = sf.prune(model)
    drawn = [
        error_by_layer({"magnitude": report}, tmp_path / "a.svg"),
        plots.by_method({"dense": [3.0], "wanda": [4.0, 4.5]}, tmp_path / "b.svg"),
        plots.curve([(0, 1.0), (1, 0.5)], tmp_path / "c.svg", "dense layers", "loss"),
    ]
    assert all(path.read_text().count("<path") > 3 for path in drawn)
    with pytest.raises(ArgumentError, match=r"(?s)can.t be written.*\.png"):
        plots.curve([(0, 1.0)], tmp_path / "c.odd", "x", "y")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"needs matplotlib[\s\S]*sparseflow\[plots\]"):
        plots.curve([(0, 1.0)], tmp_path / "c.svg", "x", "y")
