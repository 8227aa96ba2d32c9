"""The contextual operators under torch, and what holds their tensors."""

import dataclasses

import pytest
import torch

from sparseflow.errors import ArgumentError, InferenceOnlyError, WeightError
from sparseflow.runtime.contextual import ContextualWeights, Predictor, ops, portable

H, NEURONS, R = 24, 56, 5


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return ContextualWeights.of(
        torch.randn(NEURONS, H),
        torch.randn(NEURONS, H),
        torch.randn(H, NEURONS),
        up_bias=torch.randn(NEURONS),
        activation="gelu",
    )


@pytest.fixture
def predictor():
    torch.manual_seed(1)
    return Predictor(torch.randn(R, H), torch.randn(NEURONS, R), torch.randn(NEURONS), "top_k", 20)


def auto(x, w, p, m_max=4):
    return ops.contextual_mlp_auto(x, *w.operands, *p.operands, p.rule, p.parameter, w.activation, m_max)


def test_few_rows_run_contextual_and_many_dense(weights, predictor):
    few, many = torch.randn(2, 2, H), torch.randn(5, H)
    assert torch.equal(auto(few, weights, predictor), predictor.run(few, weights))
    assert torch.equal(auto(many, weights, predictor), weights.dense(many))


def test_one_graph_serves_both_ways(weights, predictor):
    compiled = torch.compile(
        lambda x: auto(x * 2, weights, predictor) + 1, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for rows in (1, 3, 9):
        x = torch.randn(rows, H)
        torch.testing.assert_close(compiled(x), auto(x * 2, weights, predictor) + 1)


def test_the_operators_pass_the_checks_of_torch(weights, predictor):
    x = torch.randn(3, H)
    neurons, count = predictor.select(x)
    calls = {
        ops.contextual_mlp: (x, *weights.operands, neurons, count, weights.activation),
        ops.contextual_scores: (x, *predictor.operands),
        ops.contextual_select: (predictor.scores(x), "threshold", 0.5, True),
    }
    for op, args in calls.items():
        torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))


def test_plain_torch_computes_the_same(weights, predictor):
    x = torch.randn(3, H)
    for per_row in (False, True):
        args = (*weights.operands, *predictor.select(x, per_row), weights.activation)
        mine, plain = ops.contextual_mlp(x, *args), portable.contextual_mlp(x, *args)
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-3)  # terms are about 100


def test_gradients_are_refused(weights, predictor):
    with pytest.raises(InferenceOnlyError, match="requires grad"):
        auto(torch.randn(1, H, requires_grad=True), weights, predictor)


def test_quantised_weights_take_a_quarter_and_stay_close(weights):
    small, x = weights.quantized(), torch.randn(4, H)
    matrices = [t.nbytes for t in (small.gate, small.up, small.down_t)]
    assert sum(matrices) * 4 == sum(t.nbytes for t in (weights.gate, weights.up, weights.down_t))
    assert (small.dense(x) - weights.dense(x)).norm() < 0.03 * weights.dense(x).norm()
    with pytest.raises(ArgumentError, match="int8"):
        small.quantized()


def test_quantising_keeps_rows_of_zeros_and_refuses_nan():
    up = torch.zeros(2, 3)
    w = ContextualWeights.of(None, up, torch.ones(3, 2)).quantized()
    assert not w.up.any()
    assert w.up_scale.tolist() == [1, 1]
    up[1, 2] = float("nan")
    with pytest.raises(WeightError, match="row 1, column 2"):
        ContextualWeights.of(None, up, torch.ones(3, 2)).quantized()


def test_casting_moves_the_weights_and_keeps_scales(weights, predictor):
    half = weights.to(dtype=torch.bfloat16)
    assert half.up.dtype == half.up_bias.dtype == torch.bfloat16
    assert half.nbytes * 2 == weights.nbytes
    small = weights.quantized().to(dtype=torch.float16)
    assert (small.up.dtype, small.up_scale.dtype, small.up_bias.dtype) == (
        torch.int8, torch.float32, torch.float16
    )  # fmt: skip
    assert predictor.to(dtype=torch.float16).bias.dtype == torch.float32
    assert predictor.quantized().nbytes < predictor.to(dtype=torch.bfloat16).nbytes < predictor.nbytes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activation", "tanh"),
        ("gate", torch.randn(NEURONS, H + 1)),
        ("down_t", torch.randn(NEURONS, H).half()),
        ("up_bias", torch.randn(NEURONS + 1)),
        ("up_scale", torch.ones(NEURONS)),
        ("up", torch.randn(NEURONS, H, dtype=torch.float64)),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(weights, field, value):
    with pytest.raises(ArgumentError):
        dataclasses.replace(weights, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("b", torch.randn(NEURONS, R + 1)), ("bias", torch.randn(NEURONS).half())]
)
def test_a_predictor_that_does_not_fit_is_refused(predictor, field, value):
    with pytest.raises(ArgumentError, match=field):
        dataclasses.replace(predictor, **{field: value})
