import pytest
import torch
from gpu_weights import E4M3, packed, pruned

from sparseflow.runtime import gpu, ops

SHAPES = [(64, 32), (272, 288), (1000, 100), (7, 5), (96, 4096), (130, 66), (1, 1), (512, 1024), (64, 64)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_weight_comes_back_exactly_from_the_layout_of_cuda(shape, dtype):
    weight = pruned(*shape, dtype)
    values, positions = ops.pack_2_4(weight)
    device = gpu.DeviceWeight.from_portable(values, positions, shape[1])
    assert torch.equal(device.dense(), weight)
    assert torch.equal(device.values, values)
    assert torch.equal(ops.unpack_2_4(values, device.portable_positions(), shape[1]), weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_layout_is_byte_for_byte_the_librarys(dtype):
    for shape in ((64, 64), (320, 448), (512, 1024), (4096, 4160), (200, 456), (33, 100)):
        weight = pruned(*shape, dtype)
        ours, theirs = packed(weight), gpu.compress(weight)
        assert torch.equal(ours.values, theirs.values)
        assert torch.equal(theirs.dense(), weight)
        assert torch.equal(packed(theirs.dense()).positions, ours.positions)


@pytest.mark.parametrize("dtype", [torch.int8, E4M3])
def test_eight_bit_weights_come_back_from_what_the_library_compressed(dtype):
    for shape in ((64, 64), (320, 448), (512, 1024), (200, 456), (33, 50)):
        weight = pruned(*shape, dtype)
        back = gpu.compress(weight).dense()
        assert torch.equal(back.float(), weight.float())


def test_a_16_bit_weight_takes_nine_sixteenths_of_its_dense_bytes():
    weight = pruned(4096, 4096, torch.bfloat16)
    assert packed(weight).nbytes * 16 == weight.nbytes * 9
