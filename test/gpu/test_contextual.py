"""The operators of contextual MLPs on CUDA, against plain torch in fp64."""

import pytest
import torch
from gpu_weights import error

from sparseflow.runtime.contextual import ContextualWeights, Predictor, ops, portable

H, NEURONS = 264, 300
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 6e-4}
DTYPES = list(TOLERANCE)


def randn(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cuda").to(dtype)


def weights(dtype, hidden=H, neurons=NEURONS, gated=True, biased=True, activation="silu"):
    gate, up, down = (randn(neurons, hidden, seed=seed).div(hidden**0.5).to(dtype) for seed in (1, 2, 3))
    biases = {}
    if biased:
        biases = {
            "gate_bias": randn(neurons, dtype=dtype, seed=4) if gated else None,
            "up_bias": randn(neurons, dtype=dtype, seed=5),
            "down_bias": randn(hidden, dtype=dtype, seed=6),
        }
    return ContextualWeights(gate if gated else None, up, down, **biases, activation=activation)


def some(count, neurons=NEURONS, seed=7):
    """A list with that many neurons, and what must not be read behind them."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(neurons, generator=generator)[:count].sort().values.int()
    behind = torch.full((neurons - count,), 1 << 30, dtype=torch.int32)
    return torch.cat([chosen, behind]).cuda(), torch.tensor([count], dtype=torch.int32, device="cuda")


def reference(x, w, neurons, count):
    """In fp64, of one list."""
    at = neurons[: int(count)].long()

    def rows(weight, scale):
        return weight[at].double() if scale is None else weight[at].double() * scale[at, None]

    def bias(of):
        return 0 if of is None else of[at].double()

    wide, act = x.double(), portable.ACTIVATIONS[w.activation]
    hidden = wide @ rows(w.up, w.up_scale).T + bias(w.up_bias)
    if w.gate is None:
        hidden = act(hidden)
    else:
        hidden = hidden * act(wide @ rows(w.gate, w.gate_scale).T + bias(w.gate_bias))
    y = hidden @ rows(w.down_t, w.down_scale)
    return y if w.down_bias is None else y + w.down_bias.double()


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mlp_of_a_list_for_every_number_of_rows(dtype, gated, quantized):
    w = weights(dtype, gated=gated)
    if quantized:
        w = w.quantized()
    for m in (1, 2, 3, 4, 5, 8, 17, 32, 65):
        x = randn(m, H, dtype=dtype, seed=m)
        neurons, count = some(37 + m)
        assert error(w.run(x, neurons, count), reference(x, w, neurons, count)) < TOLERANCE[dtype], m


@pytest.mark.parametrize("activation", portable.ACTIVATIONS)
@pytest.mark.parametrize("biased", [True, False])
def test_every_activation(activation, biased):
    for gated in (True, False):
        w = weights(torch.float32, gated=gated, biased=biased, activation=activation)
        x, (neurons, count) = randn(2, H), some(99)
        assert error(w.run(x, neurons, count), reference(x, w, neurons, count)) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [(4096, 14336), (3072, 8192), (768, 3072), (2, 1), (7, 50), (301, 40), (8, 5000)]
)
def test_shapes_of_models_and_odd_ones(sizes, dtype):
    hidden, intermediate = sizes
    w = weights(dtype, hidden, intermediate)
    for part in (0.1, 0.5, 1.0):
        for m in (1, 6):
            x, (neurons, count) = randn(m, hidden, dtype=dtype), some(int(part * intermediate), intermediate)
            assert error(w.run(x, neurons, count), reference(x, w, neurons, count)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_list_for_each_row(dtype):
    w, x = weights(dtype), randn(2, 3, H, dtype=dtype)
    lists = [some(count, seed=count) for count in (0, 1, 16, 60, 299, 300)]
    neurons, counts = torch.stack([n for n, _ in lists]), torch.cat([c for _, c in lists])
    y = w.run(x, neurons, counts).view(6, H)
    for row, (y_row, x_row) in enumerate(zip(y, x.view(6, H), strict=True)):
        assert error(y_row, reference(x_row, w, *lists[row])) < TOLERANCE[dtype], row


def test_an_empty_list_gives_the_bias_and_a_count_is_clamped():
    w, x, everything = weights(torch.bfloat16), randn(3, H, dtype=torch.bfloat16), some(NEURONS)[0]
    for count, expected in ((0, 0), (-5, 0), (NEURONS + 9, NEURONS)):
        given = torch.tensor([count], dtype=torch.int32, device="cuda")
        right = reference(x, w, everything, torch.tensor([expected]))
        assert error(w.run(x, everything, given), right.expand(3, H)) < 4e-3
    bare = weights(torch.bfloat16, biased=False)
    assert torch.equal(bare.run(x, everything, torch.zeros(1, dtype=torch.int32, device="cuda")), 0 * x)


def test_leading_dimensions_strides_and_no_rows():
    w, (neurons, count), wide = weights(torch.bfloat16), some(50), randn(24, H, dtype=torch.bfloat16)
    for x in (
        wide.view(2, 3, 4, H),
        wide[0],
        wide[::2],
        wide.T.contiguous().T,
        wide[:0].view(0, 5, H),
        wide[:, :H],
    ):
        y = w.run(x, neurons, count)
        assert (y.shape, y.dtype, y.is_contiguous()) == (x.shape, x.dtype, True)
        assert error(y, reference(x, w, neurons, count)) < 4e-3


def test_the_same_bits_from_run_to_run():
    w, (neurons, count) = weights(torch.bfloat16, 4096, 8192), some(3000, 8192)
    x = randn(1, 4096, dtype=torch.bfloat16)
    first = w.run(x, neurons, count)
    assert all(torch.equal(first, w.run(x, neurons, count)) for _ in range(50))


def test_nan_and_inf_spread_through_the_selected_neurons_alone():
    w, (neurons, count) = weights(torch.float32, activation="relu"), some(20)
    x = randn(1, H)
    x[0, 3] = float("nan")
    assert w.run(x, neurons, count).isnan().all()
    unlisted = (set(range(NEURONS)) - set(neurons[:20].tolist())).pop()
    for tensor in (w.gate, w.up, w.down_t):
        tensor[unlisted] = float("nan")
    assert w.run(randn(1, H), neurons, count).isfinite().all()
    w.down_t[int(neurons[0])] = float("inf")
    assert not w.run(randn(1, H), neurons, count).isfinite().any()


def test_a_neuron_that_there_is_not_gives_nan_instead_of_a_fault():
    w, x = weights(torch.float32), randn(1, H)
    neurons, count = some(20)
    neurons[19] = NEURONS
    assert w.run(x, neurons, count).isnan().all()


@pytest.mark.parametrize("m", [1, 5])
def test_a_captured_graph_follows_x_and_the_list(m):
    w, x = weights(torch.bfloat16), randn(m, H, dtype=torch.bfloat16)
    p = predictor(torch.bfloat16, "top_k", 40)
    neurons, count = some(10)
    p.run(x, w), w.run(x, neurons, count)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        listed, predicted = w.run(x, neurons, count), p.run(x, w)
    for turn, length in enumerate((0, 1, 150, NEURONS)):
        x.copy_(randn(m, H, dtype=torch.bfloat16, seed=turn))
        fresh = some(length, seed=turn)
        neurons.copy_(fresh[0]), count.copy_(fresh[1])
        listed.fill_(float("nan")), predicted.fill_(float("nan"))
        graph.replay()
        assert error(listed, reference(x, w, *fresh).expand(m, H)) < 4e-3
        assert error(predicted, reference(x, w, *p.select(x))) < 4e-3


def predictor(dtype, rule, parameter, rank=24, hidden=H, neurons=NEURONS):
    a, b = randn(rank, hidden, seed=8).to(dtype), randn(neurons, rank, seed=9).to(dtype)
    return Predictor(a, b, randn(neurons, seed=10), rule, parameter)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes", [(H, NEURONS, 24), (4096, 14336, 576), (4096, 14336, 574), (17, 9, 5), (8, 3, 2600), (72, 40, 1)]
)
def test_scores(dtype, sizes):
    hidden, neurons, rank = sizes
    for quantized in (False, True):
        p = predictor(dtype, "threshold", 0, rank, hidden, neurons)
        p = p.quantized() if quantized else p
        a, b = (
            (w.double(), 1) if s is None else (w.double(), s[:, None])
            for w, s in ((p.a, p.a_scale), (p.b, p.b_scale))
        )
        for m in (0, 1, 3, 9):
            x = randn(m, hidden, dtype=dtype, seed=m)
            expected = x.double() @ (a[0] * a[1]).T @ (b[0] * b[1]).T + p.bias
            found = p.scores(x)
            assert found.dtype == torch.float32
            assert error(found, expected) < 1e-5


def odd_scores(m, neurons):
    """With ties, zeros of both signs, infinities and NaN."""
    scores = (randn(m, neurons) * 4).round() / 2
    flat = scores.view(-1)
    for i, value in enumerate((float("nan"), float("inf"), -float("inf"), -0.0)):
        flat[i + 2 :: 97] = value
    return scores


@pytest.mark.parametrize("neurons", [1, 31, 33, 300, 14336, 70000])
@pytest.mark.parametrize("rule", portable.RULES)
@pytest.mark.parametrize("odd", [False, True])
def test_selection_is_that_of_plain_torch(neurons, rule, odd):
    parameters = {
        "threshold": (-9, 0.5, 99),
        "top_k": (0, 1, neurons // 3, neurons, 2 * neurons),
        "statistical": (-0.5, 0, 1.3),
    }
    for m in (1, 2, 33):
        scores = odd_scores(m, neurons) if odd else randn(m, neurons)
        for parameter in parameters[rule]:
            for per_row in (False, True):
                lists, counts = ops.contextual_select(scores, rule, parameter, per_row)
                right, many = portable.contextual_select(scores, rule, parameter, per_row)
                assert torch.equal(counts, many)
                for found, expected, count in zip(
                    lists.view(-1, neurons), right.view(-1, neurons), many, strict=True
                ):
                    assert torch.equal(found[:count], expected[:count])
                    assert not found[count:].any()


def test_no_rows_select_nothing():
    scores = randn(0, 40)
    assert ops.contextual_select(scores, "threshold", 0.0)[1].tolist() == [0]
    assert ops.contextual_select(scores, "threshold", 0.0, True)[0].shape == (0, 40)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("rule", ["threshold", "top_k", "statistical"])
def test_predicting_selecting_and_computing_in_one_call(rule, per_row):
    w, p, x = weights(torch.float16), predictor(torch.float16, rule, 1), randn(4, H, dtype=torch.float16)
    neurons, count = p.select(x, per_row)
    assert torch.equal(p.run(x, w, per_row), w.run(x, neurons, count))


@pytest.mark.parametrize("sizes", [(4096, 14336, 576), (72, 33, 13), (64, 40000, 16), (8, 5, 2600)])
def test_a_threshold_without_lists_selects_the_neurons_of_the_list(sizes):
    hidden, neurons, rank = sizes
    w = weights(torch.bfloat16, hidden, neurons, biased=False)
    for limit in (-1e9, 0.0, 3.0, 1e9):
        p = predictor(torch.bfloat16, "threshold", limit, rank, hidden, neurons)
        for q in (p, p.quantized()):
            for m in (0, 1, 2, 7):
                x = randn(m, hidden, dtype=torch.bfloat16, seed=m)
                assert torch.equal(q.run(x, w), w.run(x, *q.select(x)))
    x = torch.full((1, hidden), float("nan"), device="cuda", dtype=torch.bfloat16)
    assert int(p.select(x)[1]) == neurons
    assert p.run(x, w).isnan().all()


def test_what_does_not_fit_is_refused_by_name():
    w, x, (neurons, count) = weights(torch.float32), randn(1, H), some(5)
    refused = {
        "x must be": lambda: w.run(randn(1, H + 1), neurons, count),
        "up must be int8 or like x": lambda: w.run(x.half(), neurons, count),
        "neurons must be Int": lambda: w.run(x, neurons.long(), count),
        "count must be Int": lambda: w.run(x, neurons, count.cpu()),
        "activation must be silu": lambda: ops.contextual_mlp(x, *w.operands, neurons, count, "tanh"),
        "rule must be one of": lambda: ops.contextual_select(randn(1, 5), "median", 0.0),
        "scores must be float32": lambda: ops.contextual_select(randn(1, 5).half(), "threshold", 0.0),
        "takes up to 131072 neurons": lambda: ops.contextual_select(randn(1, 140000), "threshold", 0.0),
    }
    for message, call in refused.items():
        with pytest.raises(RuntimeError, match=message):
            call()
