"""Attention of many queries at the end of a cache, against its definition in fp64.

FlashAttention itself runs in test/gpu. A stand-in that reads tensors as it does shows that it is called for
the right rows.
"""

from __future__ import annotations

import pytest
import torch
from attention_reference import expected
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sparseflow.errors import InferenceOnlyError
from sparseflow.runtime.attention import prompt_attention as module
from sparseflow.runtime.attention.prompt_attention import prompt_attention, why_not_flash, why_not_flash_on

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def case(batch: int, kv_heads: int, group: int, queries: int, length: int, width: int, dtype: torch.dtype):
    q = torch.randn(batch, queries, kv_heads * group, width).to(dtype).transpose(1, 2)
    k, v = (torch.randn(batch, kv_heads, length, width).to(dtype) for _ in range(2))
    return q, k, v


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [0, 5])
def test_chunks_of_a_prompt_one_after_the_other(dtype, window):
    torch.manual_seed(window)
    for batch, kv_heads, group, length, chunks in ((1, 1, 1, 50, [37]), (3, 2, 4, 64, [17, 1, 30, 16])):
        first = 0
        for queries in chunks:
            q, k, v = case(batch, kv_heads, group, queries, length, 24, dtype)
            found = prompt_attention(q, k, v, torch.tensor(first), 0.3, window)
            assert (found.shape, found.dtype) == (q.shape, dtype)
            torch.testing.assert_close(
                found.double(),
                expected(q, k, v, torch.tensor(first), None, 0.3, window),
                rtol=TOLERANCE[dtype],
                atol=TOLERANCE[dtype],
            )
            first += queries


def flash(q, k, v, of_q, of_k, max_q, max_k, dropout, causal, weights, *, scale, window_size_left, seqused_k):
    """Attend as FlashAttention's form for sequences of different lengths does, by flat memory alone."""
    assert (dropout, causal, weights) == (0.0, True, False)
    assert {t.dtype for t in (of_q, of_k, seqused_k)} == {torch.int32}
    assert all(t.is_contiguous() for t in (of_q, of_k, seqused_k))
    assert all(t.data_ptr() % 16 == 0 and t.stride(2) == 1 for t in (q, k, v))
    assert all(stride % 8 == 0 for t in (q, k, v) for stride in t.stride()[:2])
    assert max_k >= int(seqused_k.max())
    out = torch.empty_like(q)
    for at in range(len(of_q) - 1):
        used = int(seqused_k[at])
        rows = slice(int(of_q[at]), int(of_q[at + 1]))
        assert rows.stop - rows.start == max_q
        keys, values = (t[int(of_k[at]) : int(of_k[at]) + used].transpose(0, 1) for t in (k, v))
        window = 0 if window_size_left is None else window_size_left + 1
        one = expected(
            q[rows].transpose(0, 1)[None],
            keys[None],
            values[None],
            torch.tensor(used - max_q),
            None,
            scale,
            window,
        )
        out[rows] = one[0].transpose(0, 1).to(q.dtype)
    return out, None, None, None, None


@pytest.fixture
def on_flash(monkeypatch):
    """Let the CPU attend as a GPU does."""
    monkeypatch.setattr(module, "_flash_forward", flash)

    def run(q, k, v, position, scale, window=0):
        k, v = (t.expand(q.shape[0], -1, -1, -1) for t in (k, v))
        return module._flash(q, k, v, position, scale, window)

    return run


LAYOUTS = {
    "cache": lambda t: t,
    "turned": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "wide": lambda t: torch.nn.functional.pad(t, (8, 8))[..., 8:-8],
    "longer": lambda t: torch.nn.functional.pad(t, (0, 0, 0, 9))[:, :, :-9],
    "odd": lambda t: torch.nn.functional.pad(t, (3, 0))[..., 3:],
    "one sequence": lambda t: t[:1],
}


@pytest.mark.parametrize("values", LAYOUTS)
@pytest.mark.parametrize("keys", LAYOUTS)
def test_flash_attention_reads_the_rows_of_each_layout(on_flash, keys, values):
    torch.manual_seed(0)
    for first, window in ((0, 0), (22, 0), (7, 11)):
        q, k, v = case(3, 2, 3, 19, 41, 16, torch.bfloat16)
        k[:, :, first + 19 :], v[:, :, first + 19 :] = torch.nan, torch.nan
        k, v = LAYOUTS[keys](k), LAYOUTS[values](v)
        if k.shape != v.shape:  # both are one sequence's or neither is
            k, v = (t[:1] for t in (k, v))
        found = on_flash(q, k, v, torch.tensor([first]), 0.3, window)
        wanted = expected(q, k, v, torch.tensor(first), None, 0.3, window)
        torch.testing.assert_close(found.double(), wanted, rtol=2e-2, atol=2e-2)


def test_caches_are_not_copied_and_neither_are_queries_in_order(on_flash, monkeypatch):
    given: list[Tensor] = []

    def record(*args, **kwargs):
        given.extend(args[:3])
        return flash(*args, **kwargs)

    monkeypatch.setattr(module, "_flash_forward", record)
    q, k, v = case(2, 2, 2, 20, 32, 8, torch.bfloat16)
    for tensors in ((q, k, v), (q, *(LAYOUTS["turned"](t) for t in (k, v)))):
        given.clear()
        found = on_flash(*tensors, torch.tensor(3), 0.3)
        assert [t.data_ptr() for t in given] == [t.data_ptr() for t in tensors]
        assert found.transpose(1, 2).is_contiguous()


def test_empty_batches_and_no_queries():
    for batch, queries in ((0, 20), (2, 0)):
        q, k, v = case(batch, 2, 2, queries, 32, 8, torch.bfloat16)
        assert prompt_attention(q, k, v, torch.tensor(3), 0.3).shape == q.shape


def test_its_fake_has_the_shape_and_strides():
    q, k, v = case(2, 2, 2, 20, 32, 8, torch.bfloat16)
    for query in (q, q.contiguous()):
        found = prompt_attention(query, k, v, torch.tensor(3), 0.3)
        with FakeTensorMode() as mode:
            fake = prompt_attention(*map(mode.from_tensor, (query, k, v, torch.tensor(3))), 0.3)
        assert (fake.shape, fake.stride(), fake.dtype) == (found.shape, found.stride(), found.dtype)


def test_why_flash_attention_does_not_run():
    assert "float32" in (why_not_flash(torch.ones(1, 2, 3, 64)) or "")
    for width in (20, 264):
        assert str(width) in (why_not_flash(torch.ones(1, 2, 3, width, dtype=torch.bfloat16)) or "")
    assert why_not_flash(torch.ones(1, 2, 3, 64, dtype=torch.float16)) == "needs a GPU"
    assert why_not_flash_on(torch.device("cpu")) == "needs a GPU"


def test_arguments_that_do_not_fit_and_gradients_are_refused():
    q, k, v = case(2, 2, 2, 20, 32, 8, torch.float32)
    with pytest.raises(RuntimeError, match="prompt_attention: 3 heads of q"):
        prompt_attention(q[:, :3], k, v, torch.tensor(3), 0.3)
    with pytest.raises(RuntimeError, match="position must be one int64"):
        prompt_attention(q, k, v, torch.tensor([1, 2]), 0.3)
    with pytest.raises(InferenceOnlyError):
        prompt_attention(q.requires_grad_(), k, v, torch.tensor(3), 0.3)
