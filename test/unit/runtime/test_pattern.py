"""prune_24, is_24, first_violation: against a slow, plain reading of the rule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparseflow.runtime.checks as checks
from sparseflow.errors import ArgumentError, WeightError
from sparseflow.runtime import first_violation, is_24, ops, portable, prune_24

NATIVE = (torch.float32, torch.bfloat16, torch.float16)
# Few distinct magnitudes, so that ties, both zeros and denormals meet in most groups.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 1e-7, -1e-7, 6e-8, 3e-39, 60000.0, -0.25])


@st.composite
def weights(draw, dtypes=NATIVE):
    n, k = draw(st.integers(0, 5)), draw(st.integers(1, 21))
    entries = draw(st.lists(VALUES, min_size=n * k, max_size=n * k))
    return torch.tensor(entries, dtype=torch.float32).reshape(n, k).to(draw(st.sampled_from(dtypes)))


def prune_by_sorting(weight):
    """Group by group in Python: sort by magnitude, stable, and keep two."""
    rows = weight.double().tolist()
    for row in rows:
        for start in range(0, len(row), 4):
            places = range(start, min(start + 4, len(row)))
            for place in sorted(places, key=lambda at: -abs(row[at]))[2:]:
                row[place] = 0.0
    return torch.tensor(rows, dtype=torch.float64).reshape(weight.shape).to(weight.dtype)


def violation_by_counting(weight):
    for r, row in enumerate(weight.tolist()):
        for start in range(0, len(row), 4):
            if sum(value != 0 for value in row[start : start + 4]) > 2:
                return r, start // 4
    return None


@given(weights((*NATIVE, torch.float64)))
def test_prune_keeps_the_two_largest_and_the_earlier_of_ties(weight):
    before = weight.clone()
    pruned = prune_24(weight)
    assert pruned.dtype == weight.dtype
    assert torch.equal(pruned, prune_by_sorting(weight))
    assert torch.equal(weight, before)
    assert is_24(pruned)
    assert torch.equal(prune_24(pruned), pruned)


@given(weights())
def test_plain_torch_and_native_operators_agree_bit_for_bit(weight):
    pruned = portable.prune_2_4(weight)
    assert torch.equal(pruned, ops.prune_2_4(weight))
    for ours, native in zip(portable.pack_2_4(pruned), ops.pack_2_4(pruned), strict=True):
        assert torch.equal(ours.view(torch.uint8), native.view(torch.uint8))
    packed = ops.pack_2_4(pruned)
    assert torch.equal(
        portable.unpack_2_4(*packed, weight.shape[1]), ops.unpack_2_4(*packed, weight.shape[1])
    )


@given(weights())
def test_scans_in_torch_find_what_native_ones_find(weight):
    assert first_violation(weight.double()) == first_violation(weight)


@given(weights((*NATIVE, torch.float64)))
def test_first_violation_is_the_first_crowded_group(weight):
    assert first_violation(weight) == violation_by_counting(weight)
    assert is_24(weight) == (violation_by_counting(weight) is None)


def test_negative_zero_is_a_zero():
    assert is_24(torch.tensor([[1.0, -0.0, -0.0, 2.0, -0.0, 3.0, 4.0, 0.0]]))


def test_nan_counts_as_a_nonzero():
    assert first_violation(torch.tensor([[1.0, 0, 0, 2], [float("nan"), 0, 1, 2]])) == (1, 0)


@pytest.mark.parametrize("row", [0, 7, 8, 22])
def test_rows_of_every_chunk_are_looked_at(monkeypatch, row):
    monkeypatch.setattr(checks, "CHUNK_ELEMENTS", 64)  # 8 rows of 8
    weight = torch.zeros(23, 8, dtype=torch.float64)  # no native scan: torch goes through it in chunks
    weight[row, 4:7] = 1
    assert first_violation(weight) == (row, 1)
    weight[row, 6] = float("inf")
    with pytest.raises(WeightError, match=f"row {row}, column 6 is inf"):
        prune_24(weight)


@pytest.mark.parametrize("view", [lambda w: w.T, lambda w: w[:, ::2], lambda w: w[1:, 3:]])
def test_views_prune_as_their_copies_do(view):
    weight = view(torch.randn(12, 16))
    assert torch.equal(prune_24(weight), prune_24(weight.clone(memory_format=torch.contiguous_format)))


def test_a_parameter_gives_a_plain_tensor():
    pruned = prune_24(torch.nn.Linear(8, 4).weight)
    assert type(pruned) is torch.Tensor
    assert not pruned.requires_grad


def test_meta_weights_keep_shape_and_dtype():
    pruned = prune_24(torch.empty(8192, 28672, dtype=torch.bfloat16, device="meta"))
    assert (pruned.shape, pruned.dtype, pruned.device.type) == ((8192, 28672), torch.bfloat16, "meta")


@pytest.mark.parametrize("dtype", [*NATIVE, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_refused_with_their_place(dtype, bad):
    weight = torch.ones(5, 6, dtype=dtype)
    weight[3, 4] = bad
    with pytest.raises(WeightError, match=r"^up_proj: row 3, column 4 is -?(nan|inf)"):
        prune_24(weight, name="up_proj")


def test_the_largest_finite_magnitudes_are_not_taken_for_inf():
    weight = torch.full((2, 8), torch.finfo(torch.float16).max, dtype=torch.float16)
    assert prune_24(weight).count_nonzero() == 8


@pytest.mark.parametrize(
    ("weight", "rule"),
    [
        ([[1.0]], "expected a 2-d torch.Tensor, got list"),
        (torch.ones(4), r"got 1-d with shape \[4\]"),
        (torch.ones(2, 2, 4), r"got 3-d with shape \[2, 2, 4\]"),
        (torch.ones(4, 4, dtype=torch.int8), "got torch.int8"),
        (torch.ones(4, 4, dtype=torch.complex64), "got torch.complex64"),
        (torch.ones(4, 4).to(torch.float8_e4m3fn), "got torch.float8_e4m3fn"),
        (torch.eye(4).to_sparse(), "got layout torch.sparse_coo"),
    ],
)
def test_what_is_not_a_float_matrix_is_refused(weight, rule):
    with pytest.raises(ArgumentError, match=rule):
        prune_24(weight)


def test_a_meta_weight_has_no_pattern_to_look_at():
    with pytest.raises(ArgumentError, match="meta device"):
        is_24(torch.empty(4, 4, device="meta"))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_random_weights_prune_as_by_sorting(n, k, seed):
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).bfloat16()
    assert torch.equal(prune_24(weight), prune_by_sorting(weight))
