"""Perplexity and agreement are what a plain reading of their definitions gives."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, EvaluationError
from sparseflow.evaluation import agreement, as_tokens, perplexity, read_tokens, windows


@pytest.mark.parametrize(
    ("count", "window", "stride"), [(50, 16, 8), (50, 16, 16), (49, 7, 3), (5, 16, 1), (33, 16, 16)]
)
def test_each_token_is_scored_once_and_with_a_token_before_it(count, window, stride):
    found = windows(count, window, stride)
    scored = [place for part in found for place in range(part.scored, part.end)]
    alone = set(range(0, count, stride)) if stride == window else {0}
    assert scored == [place for place in range(count) if place not in alone]
    assert all(part.start < part.scored and part.end - part.start <= window for part in found)
    later = [part.scored - part.start for part in found[1:]]
    assert all(context >= max(1, window - stride) for context in later)


def model_and_tokens(name="llama", count=75):
    torch.manual_seed(0)
    return zoo.text_model(name), zoo.tokens(1, count)[0]


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 16), (32, 5), (64, 64)])
def test_perplexity_equals_scoring_token_by_token(window, stride):
    model, tokens = model_and_tokens()
    losses, scored, start, end = [], 0, 0, 0
    while end < len(tokens):
        end = min(start + window, len(tokens))
        logits = model(input_ids=tokens[None, start:end]).logits[0].detach()
        for place in range(max(scored, start + 1), end):
            losses.append(F.cross_entropy(logits[place - start - 1], tokens[place]).item())
        scored, start = end, start + stride
    found = perplexity(model, tokens, window=window, stride=stride, batch=3)
    assert found.tokens == len(losses)
    assert found.nll == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.nll))


def test_agreement_is_full_with_oneself_and_counts_what_differs():
    model, tokens = model_and_tokens()
    same = agreement(model, copy.deepcopy(model), tokens, window=16)
    assert (same.top1, same.kl, same.tokens) == (1.0, 0.0, len(tokens) - 1)
    pruned = copy.deepcopy(model)
    sf.prune(pruned)
    found = agreement(pruned, model, tokens, window=80)
    dense, other = (
        m(input_ids=tokens[None, :-1]).logits[0].detach().double().log_softmax(-1) for m in (model, pruned)
    )
    divergence = (dense.exp() * (dense - other)).sum(-1)
    assert found.top1 == pytest.approx((dense.argmax(-1) == other.argmax(-1)).float().mean().item())
    # A divergence of 1e-4 is a difference of logarithms that are a thousand times as large, in float32.
    assert found.kl == pytest.approx(divergence.mean().item(), rel=1e-3)
    assert found.kl_p99 == pytest.approx(divergence.sort().values[math.ceil(0.99 * 74) - 1].item(), rel=1e-3)


def test_tokens_are_read_from_arrays_tensors_and_text(tmp_path):
    from safetensors.torch import save_file

    ids = torch.arange(9)
    np.save(tmp_path / "a.npy", ids.numpy().astype(np.uint16))
    torch.save(ids[None], tmp_path / "a.pt")
    save_file({"ids": ids}, tmp_path / "a.safetensors")
    for suffix in ("npy", "pt", "safetensors"):
        found, size = read_tokens(tmp_path / f"a.{suffix}")
        assert torch.equal(found, ids)
        assert size == 0
    (tmp_path / "a.txt").write_text("añb", encoding="utf-8")
    found, size = read_tokens(tmp_path / "a.txt", lambda text, **_: {"input_ids": [ord(c) for c in text]})
    assert (found.tolist(), size) == ([97, 241, 98], 4)


def test_wrong_streams_and_windows_are_refused(tmp_path):
    model, tokens = model_and_tokens()
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    cases = [
        (lambda: as_tokens(torch.rand(4)), "1-d stream of token ids, not float32"),
        (lambda: as_tokens([[1, 2], [3, 4]]), r"of shape \[2, 2\]"),
        (lambda: as_tokens([1, -100]), "must be a 1-d stream"),
        (lambda: perplexity(model, tokens[:1]), "at least two tokens, not 1"),
        (lambda: perplexity(model, tokens, window=8, stride=9), "1 ≤ stride ≤ window"),
        (lambda: perplexity(model, tokens + 90), "hold id .* and the model knows 96"),
        (lambda: perplexity(copy.deepcopy(model).train(), tokens), "is in training mode"),
        (lambda: read_tokens(tmp_path / "latin.txt"), "not text in UTF-8"),
        (lambda: read_tokens(tmp_path / "bad.npy"), "can't be read as a numpy array"),
        (lambda: read_tokens(tmp_path / "none.txt"), "can't be read as text"),
    ]
    for call, message in cases:
        with pytest.raises(ArgumentError, match=message):
            call()
    with pytest.raises(EvaluationError, match="gives no logits"):
        perplexity(zoo.text_model("bert"), tokens, window=16)
    with pytest.raises(EvaluationError, match=r"fails on input_ids \[1, 75\].*\n.*smaller window"):
        perplexity(zoo.text_model("gpt2"), tokens)
    nn.init.constant_(model.model.norm.weight, math.nan)
    with pytest.raises(EvaluationError, match="NaN or Inf"):
        perplexity(model, tokens)
