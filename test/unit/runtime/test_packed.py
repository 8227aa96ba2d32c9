"""PackedWeight and compress_2_4: what goes in comes out, and what doesn't fit is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.errors import ArgumentError, WeightError
from sparseflow.runtime import PackedWeight, compress_2_4, prune_24

NATIVE = (torch.float32, torch.bfloat16, torch.float16)


def random_24(n, k, dtype=torch.float32, seed=0):
    return prune_24(torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype))


def packed_of(k=8, n=3):
    return compress_2_4(random_24(n, k))


def bytes_of(*shape):
    return torch.full(shape, 0x44, dtype=torch.uint8)


@given(st.integers(0, 9), st.integers(1, 35), st.sampled_from(NATIVE), st.integers(0, 2**31))
def test_unpack_gives_back_what_was_packed(n, k, dtype, seed):
    weight = random_24(n, k, dtype, seed)
    packed = compress_2_4(weight)
    groups = (k + 3) // 4
    assert packed.values.shape == (n, 2 * groups)
    assert packed.positions.shape == (n, (groups + 1) // 2)
    assert (packed.shape, packed.dtype) == (weight.shape, dtype)
    assert torch.equal(packed.unpack(), weight)
    PackedWeight((packed.values, packed.positions), k)  # what we pack passes our own checks


@pytest.mark.parametrize("dtype", NATIVE)
def test_denormals_and_negative_zeros(dtype):
    tiny = torch.finfo(dtype).smallest_normal / 8
    weight = torch.tensor([[tiny, -0.0, -tiny, -0.0, -0.0, -0.0, -0.0, 1.0, -0.0]], dtype=dtype)
    packed = compress_2_4(weight)
    assert torch.equal(packed.unpack(), weight)
    assert not packed.unpack()[weight == 0].signbit().any()


def test_a_group_of_zeros_keeps_valid_places():
    packed = compress_2_4(torch.zeros(2, 12))
    assert PackedWeight((packed.values, packed.positions), 12).unpack().count_nonzero() == 0


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.5 + 1 / 32), (torch.float16, 0.5 + 1 / 16)])
def test_bytes_are_half_the_values_and_two_bits_for_each(dtype, share):
    packed = compress_2_4(random_24(64, 256, dtype))
    assert packed.dense_nbytes == 64 * 256 * dtype.itemsize
    assert packed.nbytes == share * packed.dense_nbytes
    assert packed.nbytes == sum(buffer.nbytes for buffer in packed.buffers())


def test_repr_tells_shape_dtype_and_bytes():
    assert repr(packed_of(8, 4)) == "PackedWeight(4×8, float32, cpu, 68 bytes (0.531 of dense))"


def test_nothing_in_it_is_trainable():
    assert list(packed_of().parameters()) == []
    packed = compress_2_4(torch.nn.Parameter(random_24(2, 8)))
    assert not any(buffer.requires_grad for buffer in packed.buffers())


def test_state_dict_round_trip():
    packed = packed_of(k=10)
    other = PackedWeight.empty(3, 10)
    assert other.unpack().count_nonzero() == 0
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other.unpack(), packed.unpack())


def test_state_dict_of_a_module_that_holds_it():
    model, other = torch.nn.Sequential(packed_of()), torch.nn.Sequential(PackedWeight.empty(3, 8))
    assert sorted(model.state_dict()) == ["0.positions", "0.values"]
    other.load_state_dict(model.state_dict())
    assert torch.equal(other[0].unpack(), model[0].unpack())


def test_a_bad_state_dict_is_refused_before_anything_is_copied():
    target = PackedWeight.empty(3, 8)
    state = packed_of().state_dict()
    state["positions"] = torch.zeros_like(state["positions"])
    with pytest.raises(WeightError, match="row 0, group 0 stores the positions 0 and 0"):
        target.load_state_dict(state)
    assert target.values.count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_an_empty_weight_of_another_dtype_is_refused(dtype):
    with pytest.raises(ArgumentError, match=f"expected a dtype of float32, bfloat16, float16, got {dtype}"):
        PackedWeight.empty(3, 8, dtype)


def test_a_state_dict_of_another_dtype_is_cast():
    packed = packed_of()
    other = PackedWeight.empty(3, 8, torch.bfloat16)
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other.unpack(), packed.unpack().bfloat16())


def test_a_state_dict_of_another_shape_is_refused():
    with pytest.raises(ArgumentError, match="in_features=16 needs values"):
        PackedWeight.empty(3, 16).load_state_dict(packed_of(k=8).state_dict())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_are_whole_and_independent(clone):
    packed = packed_of(k=10)
    other = clone(packed)
    assert torch.equal(other.unpack(), packed.unpack())
    other.values.zero_()
    assert packed.unpack().any()


def test_to_moves_and_casts_the_values_only():
    packed = packed_of()
    half = copy.deepcopy(packed).to(torch.float16)
    assert (half.dtype, half.positions.dtype) == (torch.float16, torch.uint8)
    assert torch.equal(half.unpack(), packed.unpack().half())
    assert packed.to("meta").device.type == "meta"


def test_meta_weights_pack_to_shapes():
    packed = compress_2_4(torch.empty(57344, 8190, dtype=torch.bfloat16, device="meta"))
    assert packed.values.shape == (57344, 4096)
    assert packed.positions.shape == (57344, 1024)
    assert packed.device.type == "meta"
    assert packed.unpack().shape == (57344, 8190)
    assert PackedWeight((packed.values, packed.positions), 8190).nbytes == 57344 * (8192 + 1024)


def test_a_weight_that_is_not_24_is_refused_with_row_and_group():
    weight = random_24(6, 12)
    weight[4, 8:] = 0
    weight[4, 8:11] = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(
        WeightError, match=r"^layer\.up: not 2:4: row 4, group 2 \(columns 8…11\) holds 3 nonzeros"
    ):
        compress_2_4(weight, name="layer.up")


def test_a_short_last_group_is_named_by_its_columns():
    weight = torch.tensor([[1.0, 0, 0, 2, 1, 1, 1]])
    with pytest.raises(WeightError, match=r"group 1 \(columns 4…6\) holds 3 nonzeros"):
        compress_2_4(weight)


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_nan_and_inf_are_refused(bad):
    weight = random_24(4, 8)
    weight[2, 5] = bad
    with pytest.raises(WeightError, match="row 2, column 5"):
        compress_2_4(weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ArgumentError, match=f"float32, bfloat16, float16, got {dtype}"):
        compress_2_4(torch.zeros(4, 8).to(dtype))


@pytest.mark.parametrize("byte", [0x00, 0x44 & ~0xF | 0x5, 0x04, 0x4F, 0x14])
def test_places_out_of_order_are_refused(byte):
    packed = packed_of(k=8)
    positions = packed.positions.clone()
    positions[1, 0] = byte
    group = 0 if byte & 3 >= (byte >> 2) & 3 else 1
    with pytest.raises(WeightError, match=f"row 1, group {group} stores the positions"):
        PackedWeight((packed.values, positions), 8)


def test_values_beyond_in_features_are_refused():
    values, positions = torch.ones(2, 4), bytes_of(2, 1)
    PackedWeight((values, positions), 6)
    with pytest.raises(WeightError, match="row 0, group 1 stores a nonzero beyond K=5"):
        PackedWeight((values, positions), 5)
    values[:, 3] = 0
    PackedWeight((values, positions), 5)


def test_foreign_values_must_be_finite():
    packed = packed_of(k=8)
    packed.values[2, 1] = float("nan")
    with pytest.raises(WeightError, match=r"weight\.values: row 2, column 1 is nan"):
        PackedWeight((packed.values, packed.positions), 8)


@pytest.mark.parametrize(
    ("values", "positions", "k", "rule"),
    [
        (
            torch.zeros(2, 4),
            bytes_of(2, 2),
            8,
            r"values \[2, 4\] and positions \[2, 1\]",
        ),
        (torch.zeros(2, 4), bytes_of(2, 1), 9, r"values \[2, 6\]"),
        (torch.zeros(2, 4), bytes_of(3, 1), 8, r"got \[2, 4\] and \[3, 1\]"),
        (torch.zeros(2, 4), bytes_of(2, 1).char(), 8, "expected a dtype of uint8"),
        (torch.zeros(2, 4).double(), bytes_of(2, 1), 8, "got torch.float64"),
        (torch.zeros(4), bytes_of(2, 1), 8, "expected a 2-d weight"),
        (
            torch.zeros(2, 4),
            bytes_of(2, 1).to("meta"),
            8,
            "are on cpu, positions on meta",
        ),
    ],
)
def test_foreign_tensors_must_fit(values, positions, k, rule):
    with pytest.raises(ArgumentError, match=rule):
        PackedWeight((values, positions), k)


def test_loading_refreshes_the_dense_copy():
    packed, other = packed_of(), PackedWeight.empty(3, 8)
    other.keep_dense()
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other.dense, packed.unpack())
    assert sorted(other.state_dict()) == ["positions", "values"]
