"""Every shipped format: what it says of its tensors is what it makes, and shards are those of the weight."""

from __future__ import annotations

import copy
import importlib
import io
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.errors import ArgumentError
from sparseflow.runtime import PackedWeight, formats, prune_24
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES, TORCH_DTYPES
from sparseflow.runtime.packed import pack

EVERY = pytest.mark.parametrize("name", formats.names())
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def weight_of(n, k, dtype=torch.bfloat16, seed=0):
    return prune_24(torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype))


def portable(name, weight):
    return formats.find(name).pack(weight)


def same(one, other):
    return all(
        a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in zip(one, other, strict=True)
    )


@EVERY
@given(st.integers(1, 9), st.integers(1, 35), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_the_parts_are_what_pack_makes_and_unpack_gives_the_weight_back(name, n, k, dtype, seed):
    stored, weight = formats.find(name), weight_of(n, k, dtype, seed)
    tensors, element = stored.pack(weight), ELEMENT_TYPES[dtype]
    parts = stored.parts(n, k, element)
    assert stored.part_names == tuple(part.name for part in parts)
    assert [(tuple(t.shape), t.dtype) for t in tensors] == [(p.shape, TORCH_DTYPES[p.dtype]) for p in parts]
    assert stored.nbytes(n, k, element) == sum(tensor.nbytes for tensor in tensors)
    assert stored.dense(tensors, k).dtype == TORCH_DTYPES[stored.dense_type(element)]
    found, error = stored.unpack(tensors, k), stored.error(weight, tensors)
    if stored.lossy:
        lost = (found.double() - weight.double()).norm() / weight.double().norm().clamp(min=1e-300)
        assert error == pytest.approx(float(lost), rel=1e-6)
        assert error < 0.05
        assert found[weight == 0].count_nonzero() == 0
    else:
        assert error is None
        assert torch.equal(found, weight)


@EVERY
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 35))
def test_joined_weights_are_the_packed_rows(name, rows, k):
    weights = [weight_of(n, k, seed=n) for n in rows]
    joined = formats.find(name).join([portable(name, weight) for weight in weights])
    assert same(joined, portable(name, torch.cat(weights)))


@EVERY
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 35))
def test_shards_of_n_are_the_packed_rows(name, world, n, k):
    weight = weight_of(world * n, k)
    for rank, rows in enumerate(weight.split(n)):
        assert same(formats.find(name).shard(portable(name, weight), k, 0, rank, world), portable(name, rows))


@EVERY
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
def test_shards_of_k_stand_for_the_columns(name, world, n, groups):
    """Odd groups too: two share a byte of positions. What there is a row stays that of the whole row."""
    stored = formats.find(name)
    k = max(4, stored.k_unit) * groups
    weight = weight_of(n, world * k)
    tensors = portable(name, weight)
    whole = stored.unpack(tensors, world * k)
    for rank in range(world):
        shard = stored.shard(tensors, world * k, 1, rank, world)
        stored.require(shard, k, "bf16", "shard")
        stored.check(shard, k, "shard")
        assert torch.equal(stored.unpack(shard, k), whole[:, rank * k : (rank + 1) * k])


@EVERY
@pytest.mark.parametrize(
    ("n", "k", "dim", "rank", "world", "rule"),
    [
        (7, 8, 0, 0, 2, "N = 7 must be a multiple of 2"),
        (6, 8, 0, 2, 2, "needs dim 0 or 1 and 0 <= rank < world"),
        (6, 8, 2, 0, 1, "needs dim 0 or 1 and 0 <= rank < world"),
    ],
)
def test_what_cannot_be_cut_is_refused(name, n, k, dim, rank, world, rule):
    with pytest.raises(ArgumentError, match=rule):
        pack(weight_of(n, k), name).shard(dim, rank, world)


@pytest.mark.parametrize("name", formats.names("2:4"))
@pytest.mark.parametrize(
    ("k", "world", "rule"),
    [
        (12, 2, "K = 12 must be a multiple of 8: .* splits K between groups of 4"),
        (10, 1, "K = 10 must be a multiple of 4"),
    ],
)
def test_groups_are_not_cut(name, k, world, rule):
    with pytest.raises(ArgumentError, match=rule):
        pack(weight_of(6, k), name).shard(1, 0, world)


@EVERY
def test_a_packed_weight_is_sharded_in_its_format_and_dtype(name):
    weight = pack(weight_of(128, 384), name)  # half of it is whole blocks of 4, 6 and 8
    rows, columns = weight.shard(0, 1, 2), weight.shard(1, 1, 2)
    assert (rows.shape, columns.shape) == ((64, 384), (128, 192))
    assert {rows.dtype, columns.dtype, weight.dtype} == {torch.bfloat16}
    assert rows.format is columns.format is weight.format
    assert torch.equal(rows.unpack(), weight.unpack()[64:])
    assert torch.equal(columns.unpack(), weight.unpack()[:, 192:])


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_state_dicts_casts_copies_and_the_meta_device_keep_the_weight(name, dtype):
    weight = pack(weight_of(5, 18, dtype), name)
    loaded = PackedWeight.empty(5, 18, dtype, format=name)
    assert loaded.unpack().count_nonzero() == 0
    loaded.load_state_dict(weight.state_dict())
    file = io.BytesIO()
    torch.save(weight, file)  # pickle itself can't have tensors in e4m3
    file.seek(0)
    for twin in (loaded, copy.deepcopy(weight), torch.load(file, weights_only=False)):
        assert twin.format is weight.format
        assert torch.equal(twin.unpack(), weight.unpack())
    half = copy.deepcopy(weight).half()
    assert half.dtype == half.unpack().dtype == torch.float16
    torch.testing.assert_close(half.unpack(), weight.unpack().half(), rtol=2**-7, atol=1e-7)
    hollow = PackedWeight.empty(5, 18, dtype, "meta", name)
    assert [t.shape for t in hollow.tensors] == [t.shape for t in weight.tensors]
    assert sorted(weight.state_dict()) == sorted(weight.format.part_names)


@EVERY
def test_every_part_of_another_shape_dtype_or_content_is_refused(name):
    weight = pack(weight_of(5, 18), name)
    for index, part in enumerate(weight.format.part_names):
        for change in (lambda t: t[1:], lambda t: t.double(), lambda t: t.to("meta")):
            tensors = list(weight.tensors)
            tensors[index] = change(tensors[index])
            with pytest.raises(ArgumentError):
                PackedWeight(tensors, 18, name, torch.bfloat16, name=part)


ELIGIBLE = {
    "2:4": [(7, 5, "f32", "silu_gated"), (64, 64, "bf16", "none"), (1, 1, "f16", "relu")],
    "4:6": [(7, 5, "f32", "silu_gated"), (64, 64, "bf16", "none"), (1, 1, "f16", "relu")],
    "6:8": [(7, 5, "f32", "silu_gated"), (64, 64, "bf16", "none"), (1, 1, "f16", "relu")],
    "2:4-fp8": [(64, 128, "bf16", "none"), (192, 64, "f16", "silu"), (64, 64, "bf16", "gelu_gated")],
    "fp8": [(7, 5, "f32", "none"), (64, 64, "bf16", "silu_gated"), (1, 1, "f16", "relu")],
    "int8": [(7, 5, "f32", "none"), (64, 64, "bf16", "silu_gated"), (1, 1, "f16", "relu")],
}
REASONS = {
    "2:4": [(64, 64, "f64", "none", "it is f64; 2:4 stores f32, f16, bf16")],
    "4:6": [(64, 64, "f64", "none", "it is f64; 4:6 stores f32, f16, bf16")],
    "6:8": [(64, 64, "f64", "none", "it is f64; 6:8 stores f32, f16, bf16")],
    "2:4-fp8": [
        (64, 64, "f32", "none", "it is f32; fp8 replaces f16, bf16"),
        (72, 64, "bf16", "none", "N and K must be multiples of 64, got N=72, K=64"),
        (64, 96, "bf16", "none", "N and K must be multiples of 64, got N=64, K=96"),
    ],
    "fp8": [(64, 64, "f64", "none", "it is f64; fp8 stores f32, f16, bf16")],
    "int8": [(64, 64, "f64", "none", "it is f64; int8 stores f32, f16, bf16")],
}


@EVERY
def test_why_not(name):
    stored = formats.find(name)
    assert [stored.why_not(*layer) for layer in ELIGIBLE[name]] == [None] * len(ELIGIBLE[name])
    for *layer, reason in REASONS[name]:
        assert stored.why_not(*layer) == reason


def test_traced_operators_are_whole_only_where_a_policy_needs_it():
    fp8, skinny, plan = formats.find("2:4-fp8"), [1, 3, 64, 1], [1, 1]
    whole = torch.ops.sparseflow.linear_fp8_fused.default
    after_norm = importlib.import_module("sparseflow.runtime.fp8").linear_fp8_after_norm
    assert fp8.traced_op("cuda", skinny) is whole
    assert fp8.traced_op("cuda", [1, 1, 64, 5]) is whole  # the kernel for many rows
    assert {fp8.traced_op("cuda", plan), fp8.traced_op("cpu", skinny)} == {fp8.op}
    assert fp8.traced_op("cuda", skinny, normed=True) is after_norm
    assert fp8.traced_op("cuda", plan, normed=True) is fp8.op
    for name in ("2:4", "6:8"):
        assert formats.find(name).traced_op("cuda", skinny, normed=True) is formats.find(name).op


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(
        ArgumentError, match="the known formats are '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8'"
    ):
        formats.find("1:4")


def test_names_are_listed_by_pattern():
    patterns = ("2:4", "4:6", "6:8", "dense")
    assert {name for pattern in patterns for name in formats.names(pattern)} == set(formats.names())
    assert formats.sparse_names() == ("2:4", "4:6", "6:8", "2:4-fp8")
    assert formats.names("dense") == ("fp8", "int8")


def test_a_name_is_given_once():
    class Other(type(formats.find("2:4"))):
        pass

    with pytest.raises(ArgumentError, match="another format has this name"):
        formats.register(Other())
    formats.register(formats.find("2:4"))
    formats.unregister("2:4")
    assert formats.find("2:4").name == "2:4"


def test_what_describes_a_format_needs_no_torch():
    code = (
        "import sys; from sparseflow.runtime import formats\n"
        "for name in formats.names():\n"
        "    f = formats.find(name); f.why_not(64, 64, 'f32'); f.nbytes(8, 8, 'f16')\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
