"""Attention of few queries by the kernel that splits the keys, against its definition in fp64."""

import itertools

import pytest
import torch
from attention_reference import expected

from sparseflow.runtime.attention.decode_attention import WIDTHS, decode_attention, portable, why_not_split

DTYPES = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
CLUSTERED = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
needs_clusters = pytest.mark.skipif(not CLUSTERED, reason="the kernel is for sm_90 and later")


def case(batch, kv_heads, group, queries, length, width, dtype, seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    shapes = [(batch, kv_heads * group, queries, width), *[(batch, kv_heads, length, width)] * 2]
    return [torch.randn(shape, device="cuda", generator=generator).to(dtype) for shape in shapes]


@needs_clusters
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("queries", "group"), [(1, 1), (1, 4), (1, 7), (1, 16), (2, 4), (3, 4), (16, 1)])
def test_lengths_windows_and_padding(dtype, width, queries, group):
    numbers = torch.Generator().manual_seed(width + queries + group)
    for seed, (batch, length) in enumerate(
        [(1, 1), (1, 16), (2, 65), (3, 700), (1, 4099), (9, 300), (1, 9000)]
    ):
        if length < queries:
            continue
        filled = int(torch.randint(queries, length + 1, (), generator=numbers))
        q, k, v = case(batch, 2, group, queries, length, width, dtype, seed)
        k[:, :, filled:], v[:, :, filled:] = torch.nan, torch.nan  # must not reach a result
        position = torch.tensor(filled - queries, device="cuda")
        keep = torch.rand(batch, length + 5, device="cuda") < 0.7
        for window, padding in itertools.product((0, 1, 37, 4096), (None, keep)):
            arguments = (q, k, v, position, padding, width**-0.5, window)
            found = decode_attention(*arguments)
            assert torch.equal(found, decode_attention(*arguments))  # the same bits from run to run
            torch.testing.assert_close(
                found.double(), expected(*arguments), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
            )


@needs_clusters
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("heads", [1, 8, 17, 32, 66, 67, 132, 133, 300])
@pytest.mark.parametrize("length", [90, 1300, 3000])
def test_any_number_of_heads(width, heads, length):
    """As many blocks share a head as the GPU holds for all of them; the sums don't depend on it."""
    arguments = (*case(heads, 1, 4, 1, length, width, torch.bfloat16, heads), None, None, width**-0.5)
    torch.testing.assert_close(
        decode_attention(*arguments).double(), expected(*arguments), rtol=1.5e-2, atol=1.5e-2
    )


@needs_clusters
def test_views_of_caches_are_read_where_they_are():
    q, k, v = case(2, 4, 4, 1, 500, 128, torch.bfloat16, 0)
    position = torch.tensor([321], device="cuda")
    wanted = decode_attention(q, k, v, position, None, 0.1)
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    wide = torch.nn.functional.pad(k, (8, 8))[..., 8:-8]
    odd = torch.nn.functional.pad(v, (3, 0))[..., 3:]  # not aligned: it is copied
    assert torch.equal(decode_attention(*turned, position, None, 0.1), wanted)
    assert torch.equal(decode_attention(q, wide, odd, position, None, 0.1), wanted)


@needs_clusters
def test_without_a_position_all_keys_are_seen():
    q, k, v = case(3, 2, 4, 1, 333, 128, torch.float16, 0)
    found = decode_attention(q, k, v, None, None, 0.1)
    torch.testing.assert_close(found.double(), expected(q, k, v, None, None, 0.1), rtol=2e-3, atol=2e-3)


@needs_clusters
@pytest.mark.parametrize("window", [0, 100])
def test_a_cuda_graph_follows_the_position(window):
    q, k, v = case(2, 8, 4, 1, 2048, 128, torch.bfloat16, 0)
    position = torch.zeros((), dtype=torch.int64, device="cuda")
    for _ in range(2):
        decode_attention(q, k, v, position, None, 0.09, window)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = decode_attention(q, k, v, position, None, 0.09, window)
    for at in (0, 1, 15, 16, 127, 128, 1000, 2047, 3):
        position.fill_(at)
        q.normal_()
        graph.replay()
        torch.testing.assert_close(
            result.double(), expected(q, k, v, position, None, 0.09, window), rtol=1.5e-2, atol=1.5e-2
        )


def test_what_the_kernel_does_not_take_runs_in_torch():
    cases = {
        "float16 and bfloat16": case(1, 2, 2, 1, 40, 64, torch.float32, 0),
        "heads as wide as": case(1, 2, 2, 1, 40, 80, torch.bfloat16, 0),
        "16 queries of a head": case(1, 2, 8, 3, 40, 64, torch.bfloat16, 0),
    }
    for reason, (q, k, v) in cases.items():
        assert reason in (why_not_split(q, k) or "")
        position = torch.tensor(20, device="cuda")
        found = decode_attention(q, k, v, position, None, 0.2, 9)
        torch.testing.assert_close(
            found.double(), expected(q, k, v, position, None, 0.2, 9), rtol=1.5e-2, atol=1.5e-2
        )
        assert torch.equal(found, portable(q, k, v, position, None, 0.2, 9))
