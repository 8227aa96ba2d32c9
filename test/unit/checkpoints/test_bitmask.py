"""Packed weights against compressed-tensors' own bit masks."""

import pytest
import torch
from compressed_tensors.compressors.sparse_compressors.sparse_24_bitmask import Sparse24BitMaskTensor
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseflow import compress_2_4, prune_24
from sparseflow.errors import ArgumentError, WeightError
from sparseflow.integrations.compressed_tensors import from_bitmask, to_bitmask


def weight(n: int, k: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    dense = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    dense[dense.abs() < 0.3] = 0  # some groups keep fewer than two
    return prune_24(dense.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 9), groups=st.integers(1, 9), seed=st.integers(0, 99))
def test_what_is_written_the_package_reads_and_the_other_way_round(n, groups, seed, dtype):
    dense = weight(n, 4 * groups, dtype, seed)
    values, mask = to_bitmask(compress_2_4(dense))
    theirs = Sparse24BitMaskTensor.from_compressed_data(list(dense.shape), values, mask)
    assert torch.equal(theirs.decompress(), dense)
    made = Sparse24BitMaskTensor.from_dense(dense)
    packed = from_bitmask(made.compressed, made.bitmask, 4 * groups)
    assert torch.equal(packed.unpack(), dense)
    for back, whole in zip(to_bitmask(packed), (made.compressed, made.bitmask), strict=True):
        assert torch.equal(back, whole)


@pytest.mark.parametrize("byte", [0b0011_0111, 0b0001_0011, 0xFF, 0])
def test_a_mask_that_keeps_other_than_two_of_four_is_refused_by_its_row(byte):
    values, mask = to_bitmask(compress_2_4(weight(3, 16)))
    mask[2, 1] = byte
    with pytest.raises(WeightError, match=r"up\.bitmask: row 2: a group among the columns 8…15"):
        from_bitmask(values, mask, 16, name="up")


def test_a_mask_beyond_the_last_column_is_refused():
    values, mask = to_bitmask(compress_2_4(weight(2, 12)))
    assert (mask[:, -1] < 16).all()
    mask[1, -1] |= 16
    with pytest.raises(WeightError, match="row 1 keeps a column beyond K"):
        from_bitmask(values, mask, 12)


def test_sizes_and_dtypes_that_do_not_fit_are_refused():
    values, mask = to_bitmask(compress_2_4(weight(2, 16)))
    for bad in (
        (values[:, :-1], mask, 16),
        (values, mask[:1], 16),
        (values.double(), mask, 16),
        (values, mask, 8),
    ):
        with pytest.raises(ArgumentError):
            from_bitmask(*bad)
    with pytest.raises(ArgumentError, match="divisible by 4"):
        to_bitmask(compress_2_4(weight(2, 6)))
