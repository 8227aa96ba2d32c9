"""Scores, and what the rules select, against plain torch and plain Python."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflow.errors import ArgumentError
from sparseflow.runtime.contextual import ContextualWeights, Predictor, ops, portable

NAN = float("nan")
SCORES = st.sampled_from([-2.0, -0.0, 0.0, 1e-40, 0.5, 1.0, 3.5, float("inf"), -float("inf"), NAN])


def lists(neurons, count):
    """As Python lists, one for each list."""
    rows = neurons if neurons.dim() == 2 else neurons[None]
    return [row[:length].tolist() for row, length in zip(rows, count.tolist(), strict=True)]


def best(scores, k):
    """The k largest of a row, ties to the lower, and every NaN."""
    ranked = sorted(range(len(scores)), key=lambda i: (scores[i] == scores[i], -scores[i], i))
    return sorted({*ranked[:k], *(i for i, score in enumerate(scores) if score != score)})


@settings(max_examples=60)
@given(row=st.lists(SCORES, min_size=0, max_size=30), k=st.integers(0, 40))
def test_top_k_is_what_sorting_gives(row, k):
    chosen = ops.contextual_select(torch.tensor(row).reshape(1, -1), "top_k", k)
    assert lists(*chosen) == [best(row, k)]


def test_top_k_of_many_scores_is_that_of_torch():
    scores = torch.randn(1, 8192)
    (chosen,) = lists(*ops.contextual_select(scores, "top_k", 1000))
    assert chosen == scores[0].topk(1000).indices.sort().values.tolist()


@settings(max_examples=40)
@given(row=st.lists(SCORES, min_size=1, max_size=30), limit=st.sampled_from([-2.0, 0.0, 0.7, 3.5]))
def test_a_threshold_selects_what_is_above_it_and_what_is_not_a_number(row, limit):
    chosen = ops.contextual_select(torch.tensor([row]), "threshold", limit)
    assert lists(*chosen) == [[i for i, score in enumerate(row) if score > limit or score != score]]


def test_the_statistical_rule_selects_above_mean_and_deviations():
    scores = torch.randn(3, 500) * torch.tensor([[1.0], [5.0], [0.1]])
    limit = scores.mean(1) + 0.8 * scores.std(1, correction=0)
    expected = [(row > bound).nonzero().flatten().tolist() for row, bound in zip(scores, limit, strict=True)]
    assert lists(*ops.contextual_select(scores, "statistical", 0.8, True)) == expected


@pytest.mark.parametrize(("rule", "parameter"), [("threshold", 0.9), ("top_k", 3), ("statistical", 1.0)])
def test_rows_give_their_union_or_a_list_each(rule, parameter):
    scores = torch.randn(4, 50)
    each = lists(*ops.contextual_select(scores, rule, parameter, True))
    (union,) = lists(*ops.contextual_select(scores, rule, parameter))
    assert union == sorted(set().union(*each))


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(("rule", "parameter"), [("threshold", 0.5), ("top_k", 7), ("statistical", 0.5)])
def test_plain_torch_selects_the_same(rule, parameter, per_row):
    scores = torch.randn(5, 64).round(decimals=1)  # with ties
    scores[2, 5] = NAN
    mine = ops.contextual_select(scores, rule, parameter, per_row)
    assert lists(*mine) == lists(*portable.contextual_select(scores, rule, parameter, per_row))


@pytest.mark.parametrize(
    ("rule", "parameter"), [("best", 1.0), ("top_k", -1.0), ("top_k", 0.5), ("threshold", NAN)]
)
def test_an_impossible_rule_is_refused_by_operator_and_predictor(rule, parameter):
    with pytest.raises(RuntimeError, match="sparseflow::contextual_select"):
        ops.contextual_select(torch.zeros(1, 4), rule, parameter)
    with pytest.raises(ArgumentError):
        Predictor(torch.zeros(1, 2), torch.zeros(4, 1), None, rule, parameter)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("rows", [0, 1, 7, 33])
def test_scores_are_the_low_rank_product(stored, rows):
    torch.manual_seed(0)
    x, a, b, bias = torch.randn(rows, 150), torch.randn(13, 150), torch.randn(61, 13), torch.randn(61)
    p = Predictor(a, b, bias, "top_k", 5)
    p = p.quantized() if stored == torch.int8 else p.to(dtype=stored)
    scores = p.scores(x)
    assert scores.shape == (rows, 61)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, portable.contextual_scores(x, *p.operands), rtol=1e-4, atol=1e-3)
    exact = (x.double() @ a.double().T) @ b.double().T + bias
    assert (scores - exact).norm() <= (2e-2 if stored != torch.float32 else 1e-6) * exact.norm()


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 40])
def test_one_call_is_predict_select_and_compute(rows, per_row):
    torch.manual_seed(1)
    w = ContextualWeights.of(torch.randn(90, 30), torch.randn(90, 30), torch.randn(30, 90))
    p = Predictor(torch.randn(6, 30), torch.randn(90, 6), None, "statistical", 0.7).to(dtype=torch.bfloat16)
    x = torch.randn(rows, 30)
    assert torch.equal(p.run(x, w, per_row), w.run(x, *p.select(x, per_row)))


def test_a_predictor_of_other_neurons_is_refused():
    w = ContextualWeights.of(None, torch.randn(9, 4), torch.randn(4, 9))
    p = Predictor(torch.randn(2, 4), torch.randn(8, 2), None, "top_k", 2)
    with pytest.raises(RuntimeError, match="8 neurons of 9"):
        p.run(torch.randn(1, 4), w)
