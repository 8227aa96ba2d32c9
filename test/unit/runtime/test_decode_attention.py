"""Attention of few queries over a cache, on the CPU, against its definition in fp64."""

from __future__ import annotations

import itertools

import pytest
import torch
from attention_reference import expected
from torch._subclasses.fake_tensor import FakeTensorMode

from sparseflow.errors import InferenceOnlyError
from sparseflow.runtime.attention.decode_attention import decode_attention

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def case(batch: int, kv_heads: int, group: int, queries: int, length: int, width: int, dtype: torch.dtype):
    q = torch.randn(batch, kv_heads * group, queries, width).to(dtype)
    k, v = (torch.randn(batch, kv_heads, length, width).to(dtype) for _ in range(2))
    return q, k, v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("queries", "window", "padded"), list(itertools.product((1, 3), (0, 5), (False, True)))
)
def test_it_sees_what_position_window_and_padding_say(dtype, queries, window, padded):
    torch.manual_seed(queries + window)
    for batch, kv_heads, group, length, filled in ((1, 1, 1, 7, 4), (2, 2, 3, 40, 40), (3, 2, 4, 64, 17)):
        q, k, v = case(batch, kv_heads, group, queries, length, 24, dtype)
        k[:, :, filled:], v[:, :, filled:] = torch.nan, torch.nan
        if queries > 1:  # torch's attention reads what its mask hides from some
            k, v = k.nan_to_num(), v.nan_to_num()
        keep = None
        if padded:
            keep = torch.rand(batch, length + 3) < 0.7
            keep[0, : filled - queries] = False
            keep[:, filled - queries : filled] = True
        arguments = (q, k, v, torch.tensor(filled - queries), keep, 0.3, window)
        found = decode_attention(*arguments)
        assert (found.shape, found.is_contiguous(), found.dtype) == (q.shape, True, dtype)
        torch.testing.assert_close(
            found.double(), expected(*arguments), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [1, 20, 64])
def test_long_caches_are_put_together_from_stretches(dtype, width):
    torch.manual_seed(width)
    for queries, window, filled in ((1, 0, 129), (1, 200, 517), (2, 130, 640), (3, 0, 700)):
        q, k, v = case(2, 2, 5, queries, 700, width, dtype)
        keep = torch.rand(2, 700) < 0.8
        keep[0, :256] = False  # two stretches of which nothing is seen
        keep[:, filled - queries : filled] = True
        arguments = (q, k, v, torch.tensor(filled - queries), keep, 0.4, window)
        found = decode_attention(*arguments)
        torch.testing.assert_close(
            found.double(), expected(*arguments), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


def test_the_number_of_threads_changes_no_bit():
    q, k, v = case(1, 3, 3, 1, 4000, 64, torch.float32)
    arguments = (q, k, v, torch.tensor(3990), None, 0.2)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(decode_attention(*arguments))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_nan_that_is_seen_spreads_to_its_head_alone_and_one_that_is_hidden_nowhere():
    for at, spreads in ((200, True), (100, False), (290, False)):
        for spoiled in (1, 2):
            tensors = list(case(1, 2, 2, 1, 300, 16, torch.float32))
            tensors[spoiled][0, 1, at] = torch.nan
            keep = torch.ones(1, 300, dtype=torch.bool)
            keep[:, 100] = False
            found = decode_attention(*tensors, torch.tensor(250), keep, 0.3)
            assert found[0, :2].isfinite().all()
            assert bool(found[0, 2:].isnan().any()) is spreads


def test_without_a_position_all_keys_are_seen():
    q, k, v = case(2, 2, 2, 1, 9, 8, torch.float32)
    found = decode_attention(q, k, v, None, None, 0.5)
    torch.testing.assert_close(found.double(), expected(q, k, v, None, None, 0.5), rtol=1e-5, atol=1e-5)


def test_a_cache_of_one_sequence_serves_a_batch_and_views_are_read_as_they_are():
    q, k, v = case(3, 2, 2, 1, 9, 8, torch.float32)
    k, v = (t.transpose(1, 2).contiguous().transpose(1, 2)[:1] for t in (k, v))
    position = torch.tensor([6])
    found = decode_attention(q, k, v, position, None, 0.5)
    torch.testing.assert_close(found.double(), expected(q, k, v, position, None, 0.5), rtol=1e-5, atol=1e-5)


def test_a_query_that_sees_nothing_gives_zeros():
    q, k, v = case(2, 2, 2, 1, 9, 8, torch.float32)
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[1] = False
    found = decode_attention(q, k, v, torch.tensor(5), keep, 0.5)
    assert found[0].abs().max() > 0
    assert torch.equal(found[1], torch.zeros_like(found[1]))


def test_an_empty_batch_gives_an_empty_result():
    q, k, v = case(0, 2, 2, 1, 9, 8, torch.float32)
    assert decode_attention(q, k, v, torch.tensor(5), None, 0.5).shape == q.shape


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"k": torch.ones(2, 2, 9, 8, dtype=torch.float64)}, "q is Float, k Double and v Float"),
        ({"v": torch.ones(2, 2, 8, 8)}, "don't fit"),
        ({"q": torch.ones(2, 3, 1, 8)}, "3 heads of q are no multiple of 2"),
        ({"position": torch.tensor([1, 2])}, "position must be one int64"),
        ({"position": torch.tensor(1, dtype=torch.int32)}, "position must be one int64"),
        ({"keep": torch.ones(2, 8, dtype=torch.bool)}, "at least 9"),
        ({"keep": torch.ones(2, 9)}, "keep must be bool"),
        ({"position": None, "window": 3}, "needs a position"),
        ({"q": torch.ones(4, 1, 8)}, "four dimensions"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changed, match):
    q, k, v = case(2, 2, 2, 1, 9, 8, torch.float32)
    arguments = {
        "q": q, "k": k, "v": v, "position": torch.tensor(5), "keep": None, "scale": 0.5, "window": 0
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=match):
        decode_attention(**{**arguments, **changed})


def test_gradients_are_refused():
    q, k, v = case(2, 2, 2, 1, 9, 8, torch.float32)
    with pytest.raises(InferenceOnlyError):
        decode_attention(q.requires_grad_(), k, v, None, None, 0.5)


def test_its_fake_has_the_shape_and_strides():
    q, k, v = case(2, 2, 2, 1, 9, 8, torch.float32)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)
    found = decode_attention(q, k, v, None, None, 0.5)
    with FakeTensorMode() as mode:
        fake = decode_attention(*(mode.from_tensor(t) for t in (q, k, v)), None, None, 0.5)
    assert (fake.shape, fake.stride(), fake.dtype) == (found.shape, found.stride(), found.dtype)
