"""The formats 4:6 and 6:8: packing against plain torch, and products against fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import sparseflow as sf
from sparseflow.errors import ArgumentError, WeightError
from sparseflow.nn import SparseLinear
from sparseflow.runtime import PackedWeight, formats, ops, portable
from sparseflow.runtime.packed import pack
from sparseflow.runtime.pattern import Pattern

NAMES = ("4:6", "6:8")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EACH = pytest.mark.parametrize("name", NAMES)
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def weight_of(name, n, k, dtype=torch.float32, seed=0):
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return Pattern.of(name).prune(weight)


@EACH
@given(st.integers(0, 5), st.integers(0, 70), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_native_operators_do_what_plain_torch_does(name, n, k, dtype, seed):
    block = Pattern.of(name).block
    dense = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype)
    dense[dense.abs() < 0.3] = -0.0
    pruned = ops.prune_blocks(dense, block)
    assert torch.equal(pruned, portable.prune_blocks(dense, block))
    packed = ops.pack_blocks(pruned, block)
    for found, expected in zip(packed, portable.pack_blocks(pruned, block), strict=True):
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(ops.unpack_blocks(*packed, k, block), pruned)
    assert torch.equal(portable.unpack_blocks(*packed, k, block), pruned)


@EACH
def test_it_is_stored_near_the_entropy_of_the_pattern(name):
    stored, block = formats.find(name), Pattern.of(name).block
    bits = 8 * stored.nbytes(1, 480 * 16, "bf16") - 16 * 480 * 16 * (block - 2) / block
    assert bits / (480 * 16 / block) == {6: 4, 8: 5}[block]


@EACH
def test_every_pair_of_dropped_columns_has_its_code(name):
    block = Pattern.of(name).block
    pairs = torch.combinations(torch.arange(block))
    weight = torch.ones(len(pairs), block).scatter_(1, pairs, 0.0)
    values, positions = ops.pack_blocks(weight, block)
    assert positions.flatten().tolist() == list(range(len(pairs)))
    assert values.unique().tolist() == [1.0]


@EACH
@EVERY_DTYPE
@pytest.mark.parametrize(("n", "k"), [(67, 528), (5, 47), (1, 1), (9, 6), (4, 8), (130, 1000), (33, 2600)])
def test_the_product_is_that_of_fp64(name, dtype, n, k):
    for m in (0, 1, 2, 3, 4, 7, 8, 19):
        require_product(name, dtype, m, n, k)


def require_product(name, dtype, m, n, k):
    generator = torch.Generator().manual_seed(n * k + m)
    weight, x = weight_of(name, n, k, dtype), torch.randn(m, k, generator=generator).to(dtype)
    bias, residual = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((n,), (m, n)))
    packed = pack(weight, name)
    expected = F.relu(x.double() @ weight.double().T + bias.double()) + residual.double()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for policy in (None, sf.runtime.Policy.parse("1:dense")):
        found = sf.sparse_mm(x, packed, bias, "relu", residual=residual, policy=policy)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * k**0.5)


@EACH
def test_a_gate_strided_x_and_more_dimensions(name):
    weight = weight_of(name, 64, 100)
    packed, x = pack(weight, name), torch.randn(2, 3, 200)[..., ::2]
    gate, up = F.linear(x, weight).chunk(2, -1)
    found = packed.format.op(x, *packed.tensors, None, None, 100, "silu_gated", [])
    torch.testing.assert_close(found, F.silu(gate) * up, rtol=1e-4, atol=1e-4)
    rows = torch.randn(5, 150)[:, :100]
    torch.testing.assert_close(sf.sparse_mm(rows, packed), F.linear(rows, weight), rtol=1e-4, atol=1e-4)


@EACH
@EVERY_DTYPE
def test_nan_and_inf_of_x_reach_what_the_dense_product_gives(name, dtype):
    """Zeros between blocks and past the last column mustn't meet the Inf of a neighbour."""
    k = 46
    weight, x = weight_of(name, 12, k, dtype), torch.randn(3, k).to(dtype)
    weight[:, 24:36] = weight[:, 24:36].abs()
    for place in (5, 6, 30, k - 1):
        for value in (float("nan"), float("inf")):
            poisoned = x.clone()
            poisoned[1, place] = value
            found, expected = sf.sparse_mm(poisoned, pack(weight, name)), F.linear(poisoned, weight)
            torch.testing.assert_close(found, expected, rtol=3e-2, atol=1e-1, equal_nan=True)


@EACH
def test_shards_are_blocks(name):
    block = Pattern.of(name).block
    weight = weight_of(name, 6, 6 * block)
    packed = pack(weight, name)
    for rank in range(2):
        columns = packed.shard(1, rank, 2).unpack()
        assert torch.equal(columns, weight[:, rank * 3 * block : (rank + 1) * 3 * block])
    with pytest.raises(ArgumentError, match=f"splits K between groups of {block}"):
        packed.shard(1, 0, 4)


@EACH
def test_what_no_packing_made_is_refused(name):
    block = Pattern.of(name).block
    values, positions = pack(weight_of(name, 4, 5 * block - 1), name).tensors
    wrong = positions.clone()
    wrong[2, 0] |= 31 if block == 8 else 15
    with pytest.raises(WeightError, match="row 2, block 0 has the code"):
        PackedWeight((values, wrong), 5 * block - 1, name)
    with pytest.raises(WeightError, match="beyond K="):
        PackedWeight((torch.ones_like(values), torch.zeros_like(positions)), 5 * block - 1, name)
    with pytest.raises(WeightError, match=f"not {name}: row 0, group 0 .* holds {block} nonzeros"):
        pack(torch.ones(2, 48), name)
    weight = weight_of(name, 4, 48)
    weight[1, 3] = float("nan")
    with pytest.raises(WeightError, match="row 1, column 3"):
        pack(weight, name)


@EACH
def test_a_sparse_linear_runs_it_gives_gradients_and_is_traced(name):
    linear = torch.nn.Linear(50, 32)
    linear.weight.data = weight_of(name, 32, 50)
    layer = SparseLinear(pack(linear.weight, name), linear.bias, policy="sparse")
    for rows in (1, 9):
        x, y = (torch.ones(rows, 50).requires_grad_() for _ in range(2))
        layer(x).square().sum().backward()
        linear(y).square().sum().backward()
        torch.testing.assert_close(layer(x), linear(y), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    x = torch.randn(3, 50)
    other = SparseLinear(PackedWeight.empty(32, 50, format=name), torch.zeros(32), policy="sparse")
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@EACH
def test_operators_pass_torchs_checks(name):
    packed = pack(weight_of(name, 8, 20), name)
    args = (torch.randn(3, 20), *packed.tensors, None, None, 20, "none", [])
    torch.library.opcheck(packed.format.op, args, test_utils=("test_schema", "test_faketensor"))


@EACH
def test_a_layer_says_why_a_gpu_has_no_kernel_for_it(name):
    from sparseflow.runtime.kernels import Problem, refusal

    assert refusal(Problem("bfloat16", 64, 64, device="cuda:0", format=name), anywhere=True) is None
    wide = Problem("float32", 64, 64, device="cuda:0", format=name)
    assert refusal(wide, anywhere=True) == "on GPUs sparse layers are bfloat16 or float16, not float32"
