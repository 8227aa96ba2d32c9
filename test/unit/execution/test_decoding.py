"""The parts of decoding: choosing a token, one row of a dense layer, learning that all have ended."""

from __future__ import annotations

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sparseflow.execution.decoding.counters import count_together
from sparseflow.execution.decoding.finish import Watch
from sparseflow.execution.decoding.sampling import GROUP, Knobs, Sampling, choose, likeliest_of_groups
from sparseflow.execution.generation import rounded_length
from sparseflow.execution.streaming import one_row_linear


def drawn(scores: torch.Tensor, sampling: Sampling, knobs: Knobs, draws: int) -> torch.Tensor:
    """How often each token is drawn, `[vocabulary]`."""
    tokens = choose(scores.expand(draws, -1), sampling, torch.tensor(knobs.values()), None)
    return torch.bincount(tokens, minlength=scores.shape[-1])


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(0, 1.0, 1.0), (5, 1.0, 0.6), (0, 0.7, 1.0), (9, 0.8, 1.7)]
)
def test_tokens_are_drawn_from_the_distribution_of_transformers(
    top_k: int, top_p: float, temperature: float
) -> None:
    torch.manual_seed(top_k)
    scores, draws = torch.randn(1, 24) * 2, 100_000
    expected = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    expected = TopPLogitsWarper(top_p)(None, expected).softmax(-1)[0] * draws
    found = drawn(scores, Sampling(True, top_k, top_p < 1), Knobs(temperature, top_p), draws)
    assert not found[expected == 0].any()
    some = expected > 0
    statistic = ((found[some] - expected[some]) ** 2 / expected[some]).sum()
    # Pearson's, beyond which one in a hundred thousand samples of 23 degrees of freedom would lie.
    assert statistic < 65


def test_the_last_token_that_reaches_top_p_is_kept() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    found = drawn(scores, Sampling(True, 0, True), Knobs(top_p=0.6), 2000)
    assert (found > 0).tolist() == [True, True, False, False]
    found = drawn(scores, Sampling(True, 0, True), Knobs(top_p=0.01), 2000)
    assert (found > 0).tolist() == [True, False, False, False]


def test_a_seen_token_is_penalized_whatever_its_sign() -> None:
    knobs = torch.tensor(Knobs(penalty=2.0).values())
    seen = torch.tensor([[True, False, True], [True, False, False]])
    scores = torch.tensor([[3.0, 2.0, -1.0], [-1.0, -1.5, -3.0]])
    assert choose(scores, Sampling(penalizes=True), knobs, seen).tolist() == [1, 1]
    assert choose(scores, Sampling(), knobs, None).tolist() == [0, 0]


@pytest.mark.parametrize("size", [1, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP + 5])
def test_the_likeliest_is_the_first_also_in_two_stages(size: int) -> None:
    # Few values, so that there are many largest ones, in one group and in several.
    scores = torch.randint(-3, 3, (7, size)).float()
    scores[1] = -torch.inf
    scores[2, torch.arange(0, size, 700)] = torch.inf
    scores[3, size // 2 :] = torch.nan
    scores[4] = -scores[4].abs()
    assert likeliest_of_groups(scores).tolist() == [row.numpy().argmax() for row in scores]
    assert likeliest_of_groups(scores[:0]).shape == (0,)


def counting(again: bool) -> torch.fx.GraphModule:
    """A graph that advances two inputs by 1 and the third by 2, and perhaps reads the first again."""
    graph = torch.fx.Graph()
    inputs = [graph.placeholder(f"input_{i}") for i in range(3)]
    aten = torch.ops.aten
    read = graph.call_function(aten.mul.Tensor, (inputs[0], 10))
    for place, step in zip(inputs, (1, 1, 2), strict=True):
        added = graph.call_function(aten.add.Scalar, (place, step))
        graph.call_function(aten.copy_.default, (place, added))
    after = graph.call_function(aten.mul.Tensor, (inputs[0], 10)) if again else read
    graph.output((read, after))
    return torch.fx.GraphModule({}, graph)


@pytest.mark.parametrize("again", [False, True], ids=["written last", "read again"])
def test_counters_count_in_one_operation(again: bool) -> None:
    plain, joined = counting(again), counting(again)
    count_together(joined.graph)
    joined.recompile()
    targets = [node.target for node in joined.graph.nodes]
    assert (torch.ops.aten._foreach_add_.Scalar in targets) is not again
    assert targets.count(torch.ops.aten.copy_.default) == (3 if again else 1)
    counters = [[torch.tensor([i]) for i in range(3)] for _ in range(2)]
    assert [int(t) for t in plain(*counters[0])] == [int(t) for t in joined(*counters[1])]
    assert counters[0] == counters[1] == [torch.tensor([1]), torch.tensor([2]), torch.tensor([4])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 37), (1, 37), (2, 3, 37)])
def test_one_row_of_a_dense_layer(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight, bias = torch.randn(shape).to(dtype), torch.randn(11, 37).to(dtype), torch.randn(11).to(dtype)
    found = one_row_linear(x, weight, bias)
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert found.dtype == dtype
    assert found.shape == expected.shape
    torch.testing.assert_close(
        found.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-2 if dtype.itemsize == 2 else 1e-5
    )


def test_a_watch_sees_the_end_of_all_and_of_none_that_cannot_end() -> None:
    unfinished = torch.tensor([True, True])
    watch, blind = Watch(unfinished, ends=True, waits=False), Watch(unfinished, ends=False, waits=False)
    unfinished[0] = False
    assert not watch.over()
    unfinished[1] = False
    assert watch.over()
    assert not blind.over()


@pytest.mark.parametrize(
    ("asked", "made"), [(1, 256), (256, 256), (257, 512), (4096, 4096), (4097, 8192), (9000, 12288)]
)
def test_caches_have_few_lengths(asked: int, made: int) -> None:
    assert rounded_length(asked) == made
