"""Packed weights as torch's semi-structured tensors, on a CPU."""

import pytest
import torch
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from sparseflow import compress_2_4, prune_24
from sparseflow.errors import ArgumentError
from sparseflow.integrations.torch import from_semi_structured, to_semi_structured

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")


def weight(n: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    dense = torch.randn(n, k, generator=torch.Generator().manual_seed(n + k))
    dense[dense.abs() < 0.3] = 0
    return prune_24(dense.to(dtype))


def of_torch(dense: torch.Tensor) -> SparseSemiStructuredTensorCUTLASS:
    values, meta = sparse_semi_structured_from_dense_cutlass(dense)
    return SparseSemiStructuredTensorCUTLASS(dense.shape, values, meta, None, None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(32, 64), (96, 192), (64, 320)])
def test_round_trips_are_exact_against_torchs_own_conversions(shape, dtype):
    dense = weight(*shape, dtype)
    made = to_semi_structured(compress_2_4(dense))
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(made.packed, made.meta), dense)
    theirs = of_torch(dense)
    packed = from_semi_structured(theirs)
    assert torch.equal(packed.unpack(), dense)
    back = to_semi_structured(packed)
    assert torch.equal(back.packed, theirs.packed)
    assert torch.equal(back.meta, theirs.meta)


def test_float32_which_torch_packs_one_of_two_comes_in_and_not_out():
    dense = torch.zeros(32, 64)
    dense[:, ::2] = torch.arange(1.0, 33).repeat(32, 1)
    assert torch.equal(from_semi_structured(of_torch(dense)).unpack(), dense)
    with pytest.raises(ArgumentError, match="bfloat16"):
        to_semi_structured(compress_2_4(dense))


def test_refusals_name_what_torch_demands():
    good = compress_2_4(weight(32, 64, torch.bfloat16))
    with pytest.raises(ArgumentError, match="N divisible by 32 and K by 64; the weight is 32×32"):
        to_semi_structured(compress_2_4(weight(32, 32, torch.bfloat16)))
    with pytest.raises(ArgumentError, match="made on a GPU"):
        to_semi_structured(good, "cusparselt")
    with pytest.raises(ArgumentError, match="'cutlass' or 'cusparselt'"):
        to_semi_structured(good, "csr")
    with pytest.raises(ArgumentError, match="got Tensor"):
        from_semi_structured(good.unpack())
    with pytest.raises(ArgumentError, match="transpose"):
        from_semi_structured(to_semi_structured(good).t())
