"""Contextual operators for many rows, their products dense or 2:4."""

import pytest
import torch

from sparseflow.runtime import compress_2_4, prune_24
from sparseflow.runtime.contextual import ContextualWeights, Predictor, ops, portable
from sparseflow.runtime.contextual.by_gate import contextual_mlp_by_gate
from sparseflow.runtime.kernels import Choice

H, NEURONS, R, M_MAX = 24, 56, 5, 4


def made(activation="silu", gated=True, gate_bias=True, up_bias=False):
    """Weights that are 2:4, and what the operators take of both products packed."""
    torch.manual_seed(0)
    up, gate, down = (prune_24(torch.randn(s)) for s in [(NEURONS, H), (NEURONS, H), (H, NEURONS)])
    biases = {
        "gate_bias": torch.randn(NEURONS) if gated and gate_bias else None,
        "up_bias": torch.randn(NEURONS) if up_bias else None,
        "down_bias": torch.randn(H),
    }
    weights = ContextualWeights.of(gate if gated else None, up, down, activation=activation, **biases)
    first = compress_2_4(torch.cat([gate, up]) if gated else up)
    packed = [[w.values, w.positions] for w in (first, compress_2_4(down))]
    return weights, packed


def predictor():
    torch.manual_seed(1)
    return Predictor(torch.randn(R, H), torch.randn(NEURONS, R), torch.randn(NEURONS), "top_k", 20)


PREDICTOR = predictor()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)  # terms are about 100


def auto(x, w, packed, up_policy=(), down_policy=()):
    p, (up, down) = PREDICTOR, packed
    return ops.contextual_mlp_auto(
        x,
        *w.operands,
        *p.operands,
        p.rule,
        p.parameter,
        w.activation,
        M_MAX,
        *up,
        up_policy,
        *down,
        down_policy,
    )


@pytest.mark.parametrize("activation", sorted(portable.ACTIVATIONS))
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("up_bias", [True, False])
def test_packed_products_give_what_the_dense_ones_give(activation, gated, up_bias):
    w, packed = made(activation, gated, up_bias=up_bias)
    for rows in (M_MAX + 1, 70):
        x = torch.randn(rows, H)
        close(auto(x, w, packed), w.dense(x))


def test_a_policy_decides_for_each_product_by_the_rows():
    w, packed = made()
    nothing = [[torch.full_like(t, 0) for t in product] for product in packed]  # as if all weights were zero
    dense_from_10 = (1, Choice("cpu").code, 10, Choice("dense").code)
    x = torch.randn(12, H)
    none = [[None, None]] * 2
    assert torch.equal(auto(x, w, nothing, dense_from_10, dense_from_10), w.dense(x))
    assert torch.equal(auto(x, w, none), w.dense(x))
    up = auto(x, w, nothing, (), dense_from_10)
    expected = w.down_bias.expand(12, H)  # gate and up see zeros; so silu(bias) · 0
    torch.testing.assert_close(up, expected)
    torch.testing.assert_close(auto(x, w, nothing, dense_from_10, ()), expected)
    assert not torch.allclose(w.dense(x), expected)


def test_few_rows_select_neurons_whatever_is_packed():
    w, packed = made()
    for rows in (0, 1, M_MAX):
        x = torch.randn(rows, H)
        assert torch.equal(auto(x, w, packed), PREDICTOR.run(x, w))


def test_the_gates_own_operator_has_packed_products_too():
    w, (up, down) = made()
    operands = (w.gate, w.up, w.down_t, w.gate_bias, w.up_bias, w.down_bias, 0.0, w.activation, M_MAX)
    few, many = torch.randn(M_MAX, H), torch.randn(M_MAX + 1, H)
    close(contextual_mlp_by_gate(many, *operands, *up, [], *down, []), w.dense(many))
    assert torch.equal(
        contextual_mlp_by_gate(few, *operands, *up, [], *down, []), contextual_mlp_by_gate(few, *operands)
    )


def test_one_graph_serves_both_ways_and_torch_checks_it():
    w, packed = made("relu2")
    compiled = torch.compile(
        lambda x: auto(x * 2, w, packed) + 1, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for rows in (2, 3, 9):
        x = torch.randn(rows, H)
        torch.testing.assert_close(compiled(x), auto(x * 2, w, packed) + 1)
    p, (up, down) = PREDICTOR, packed
    args = (*w.operands, *p.operands, p.rule, p.parameter, w.activation, M_MAX, *up, [1, 1], *down, [])
    for rows in (3, 9):
        torch.library.opcheck(
            ops.contextual_mlp_auto,
            (torch.randn(rows, H), *args),
            test_utils=("test_schema", "test_faketensor"),
        )
