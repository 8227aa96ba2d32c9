"""PackedWeight on CUDA: the layout of the tensor cores behind the portable form."""

import copy
import io

import pytest
import torch
from gpu_weights import TOLERANCE, error, reference

import sparseflow as sf
from sparseflow.runtime.packed import PackedWeight

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(64, 128), (192, 320), (5, 7), (0, 4)]


def weight_of(shape, dtype):
    return sf.prune_24(torch.randn(*shape).to(dtype))


def assert_equal(one, other):
    for found, expected in zip(one.portable(), other.portable(), strict=True):
        assert torch.equal(found.cpu(), expected.cpu())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pruning_and_packing_on_cuda_equal_the_cpu(shape, dtype):
    dense = torch.randn(*shape).to(dtype)
    pruned = sf.prune_24(dense.cuda())
    assert torch.equal(pruned.cpu(), sf.prune_24(dense))
    packed = sf.compress_2_4(pruned)
    assert_equal(packed, sf.compress_2_4(pruned.cpu()))
    assert torch.equal(packed.unpack(), pruned)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_moving_there_and_back_changes_nothing(shape, dtype):
    packed = sf.compress_2_4(weight_of(shape, dtype))
    there = copy.deepcopy(packed).cuda()
    assert torch.equal(there.unpack().cpu(), packed.unpack())
    assert_equal(there, packed)
    assert torch.equal(copy.deepcopy(there).cpu().positions, packed.positions)
    assert_equal(there.half(), copy.deepcopy(packed).half())


@pytest.mark.parametrize("keep", [False, True])
def test_a_state_dict_is_portable(keep):
    packed = sf.compress_2_4(weight_of((128, 64), torch.bfloat16))
    there = copy.deepcopy(packed).cuda()
    if keep:
        there.keep_dense()
    file = io.BytesIO()
    torch.save(there.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert sorted(state) == ["positions", "values"]
    for device in ("cpu", "cuda"):
        other = PackedWeight.empty(128, 64, torch.bfloat16, device=device)
        if keep:
            other.keep_dense()
        other.load_state_dict(state)
        assert_equal(other, packed)
        assert torch.equal(other.unpack().cpu(), packed.unpack())
        assert not keep or torch.equal(other.dense, other.unpack())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(128, 192), (24, 62)])
@pytest.mark.parametrize("m", [0, 1, 17])
def test_sparse_mm_takes_any_packed_weight(shape, dtype, m):
    weight = weight_of(shape, dtype).cuda()
    x = torch.randn(m, shape[1], device="cuda").to(dtype)
    y = sf.sparse_mm(x, sf.compress_2_4(weight), activation="relu")
    assert (
        error(y, reference(x, weight, epilogue="relu")) < TOLERANCE[dtype] if m else y.shape == (0, shape[0])
    )


def test_a_copy_keeps_values_and_positions_in_one_buffer():
    packed = copy.deepcopy(sf.compress_2_4(weight_of((128, 128), torch.bfloat16).cuda()))
    end = packed.values.data_ptr() + packed.values.nbytes
    assert packed.positions.data_ptr() == end
