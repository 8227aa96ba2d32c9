"""``sparseflow::contextual_mlp`` against gathering in fp64, and what it refuses."""

import pytest
import torch
from gather import ACTIVATIONS, DTYPES, run, some, weights, worst
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflow.runtime.contextual import ContextualWeights

MASKS = st.lists(st.lists(st.booleans(), min_size=23, max_size=23), min_size=1, max_size=6)


@settings(max_examples=40)
@given(masks=MASKS, rows=st.integers(0, 6), gated=st.booleans(), seed=st.integers(0, 1 << 30))
def test_any_sequence_of_masks_gives_the_gathered_product(masks, rows, gated, seed):
    torch.manual_seed(seed)
    w = weights(23, 37, gated=gated, biased=seed % 2 == 0)
    for mask in masks:  # one weight, masks that change: nothing of the last call may be left
        x = torch.randn(rows, 37)
        neurons = [i for i, needed in enumerate(mask) if needed]
        assert worst(run(w, x, neurons), w, x, neurons) <= 1


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_that_of_torch(activation, gated):
    torch.manual_seed(1)
    w = weights(64, 48, gated=gated, activation=activation)
    x, neurons = 4 * torch.randn(3, 48), some(64, 0.4)
    assert worst(run(w, x, neurons), w, x, neurons) <= 1


@pytest.mark.parametrize("rows", [0, 1, 3, 32, 70])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_number_of_rows(dtype, quantized, rows):
    torch.manual_seed(2)
    w = weights(101, 1301, dtype, biased=True, quantized=quantized)
    x, neurons = torch.randn(rows, 1301).to(dtype), some(101, 0.3)
    y = run(w, x, neurons)
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert worst(y, w, x, neurons) <= 1


def test_many_neurons_are_shared_among_the_threads_and_repeat_bit_for_bit():
    torch.manual_seed(3)
    w, x = weights(1024, 512, biased=True), torch.randn(2, 512)
    neurons = some(1024, 0.7)
    first = run(w, x, neurons)
    assert worst(first, w, x, neurons) <= 1
    assert torch.equal(first, run(w, x, neurons))


def test_the_full_mask_is_the_dense_mlp():
    torch.manual_seed(4)
    w, x = weights(57, 33, biased=True), torch.randn(2, 4, 33)
    torch.testing.assert_close(run(w, x, range(57)), w.dense(x))


@pytest.mark.parametrize("biased", [True, False])
def test_the_empty_mask_leaves_the_last_bias(biased):
    w, x = weights(8, 5, biased=biased), torch.randn(3, 5)
    expected = w.down_bias.expand(3, 5) if biased else torch.zeros(3, 5)
    assert torch.equal(run(w, x, []), expected)


def test_a_count_outside_the_list_is_its_nearest_bound():
    w, x = weights(6, 9), torch.randn(1, 9)
    everything = torch.arange(6, dtype=torch.int32)

    def counted(count):
        return w.run(x, everything, torch.tensor([count], dtype=torch.int32))

    assert torch.equal(counted(100), counted(6))
    assert torch.equal(counted(-3), torch.zeros(1, 9))


def test_rows_may_have_lists_of_their_own():
    torch.manual_seed(5)
    w, x = weights(40, 24, biased=True), torch.randn(35, 24)
    chosen = [some(40, 0.5) for _ in range(35)]
    neurons = torch.zeros(35, 40, dtype=torch.int32)
    for row, listed in zip(neurons, chosen, strict=True):
        row[: len(listed)] = torch.tensor(listed, dtype=torch.int32)
    y = w.run(x, neurons, torch.tensor([len(listed) for listed in chosen], dtype=torch.int32))
    for m, listed in enumerate(chosen):
        assert worst(y[m], w, x[m], listed) <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_spreads_from_its_row_of_x_as_in_torch(bad):
    torch.manual_seed(6)
    w, x = weights(10, 20), torch.randn(3, 20)
    x[1, 7] = bad
    y = run(w, x, range(10))
    assert y[[0, 2]].isfinite().all()
    torch.testing.assert_close(y, w.dense(x), equal_nan=True)


def test_neurons_that_are_not_listed_are_not_read():
    w, x = weights(10, 20), torch.randn(2, 20)
    for matrix in (w.gate, w.up, w.down_t):
        matrix[[0, 4, 9]] = float("nan")
    assert run(w, x, [1, 2, 3, 5, 6]).isfinite().all()


def test_rows_of_x_that_lie_apart_are_read_in_place():
    w, x = weights(12, 16), torch.randn(4, 40)[:, 3:19]
    assert worst(run(w, x, [0, 3, 11]), w, x, [0, 3, 11]) <= 1


def refused(w, *, x=None, neurons=None, count=None):
    x = torch.randn(2, w.hidden) if x is None else x
    neurons = torch.arange(w.intermediate, dtype=torch.int32) if neurons is None else neurons
    count = torch.tensor([2], dtype=torch.int32) if count is None else count
    with pytest.raises(RuntimeError, match="sparseflow::contextual_mlp") as raised:
        w.run(x, neurons, count)
    return str(raised.value)


@pytest.mark.parametrize("neuron", [-1, 6, 1 << 30])
def test_a_neuron_outside_the_weights_is_refused(neuron):
    message = refused(weights(6, 9), neurons=torch.tensor([0, neuron, 2, 3, 4, 5], dtype=torch.int32))
    assert f"0 … 5, got {neuron}" in message


def test_masks_of_a_wrong_rank_size_or_dtype_are_refused():
    w, one = weights(6, 9), torch.tensor([1], dtype=torch.int32)
    assert "[I] or [M, I]" in refused(w, neurons=torch.zeros(1, 1, 6, dtype=torch.int32))
    assert "M = 2" in refused(w, neurons=torch.zeros(3, 6, dtype=torch.int32))
    assert "int32" in refused(w, neurons=torch.arange(6))
    assert "count must be [2]" in refused(w, neurons=torch.zeros(2, 6, dtype=torch.int32), count=one)
    assert "count must be [1]" in refused(w, count=torch.tensor(1, dtype=torch.int32))


def test_x_of_a_wrong_size_or_dtype_is_refused():
    assert "x must be [..., 9]" in refused(weights(6, 9), x=torch.randn(2, 8))
    assert "dtype of the weights" in refused(weights(6, 9), x=torch.randn(2, 9).half())
    assert "float32, bfloat16 or float16" in refused(weights(6, 9), x=torch.randn(2, 9).double())


def test_a_weight_that_is_only_a_transposed_view_is_refused():
    up = torch.randn(6, 9)
    w = ContextualWeights(None, up, torch.randn(9, 6).T)
    assert "rows are read in place" in refused(w)
