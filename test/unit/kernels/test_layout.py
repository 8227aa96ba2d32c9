import pytest
import torch

from sparseflow.runtime import native

native.load()
ops = torch.ops.sparseflow
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (2, 2), (3, 3), (5, 4), (4, 7), (8, 33), (31, 256), (0, 8), (6, 0)]


def pruned_in_python(w):
    """The two largest magnitudes of each group of four; the earlier place wins a tie."""
    n, k = w.shape
    groups = torch.nn.functional.pad(w, (0, -k % 4)).view(n, (k + 3) // 4, 4)
    order = groups.float().abs().sort(dim=2, descending=True, stable=True).indices[:, :, :2]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order, True)
    return (groups * mask).flatten(1)[:, :k]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pruning_keeps_the_two_largest_of_four(shape, dtype):
    w = torch.randn(shape).mul(4).round().div(4).to(dtype)  # many ties
    assert torch.equal(ops.prune_2_4(w), pruned_in_python(w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_unpacking_restores_what_was_packed(shape, dtype):
    w = ops.prune_2_4(torch.randn(shape).to(dtype))
    values, positions = ops.pack_2_4(w)
    groups = -(-shape[1] // 4)
    assert values.shape == (shape[0], 2 * groups)
    assert positions.shape == (shape[0], -(-groups // 2))
    assert torch.equal(ops.unpack_2_4(values, positions, shape[1]), w)


def test_places_are_in_order_with_the_low_nibble_first():
    w = torch.tensor([[0, 5.0, 0, 7.0, 1.0, 0, 2.0, 0, 0, 0, 3.0, 0]])
    values, positions = ops.pack_2_4(w)
    assert values.tolist() == [[5, 7, 1, 2, 0, 3]]
    assert positions.tolist() == [[(1 | 3 << 2) | (0 | 2 << 2) << 4, (0 | 2 << 2) | (0 | 1 << 2) << 4]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_zero_counts_as_zero(dtype):
    w = torch.tensor([[-0.0, 1.0, -0.0, 2.0, -0.0, -0.0, -0.0, -0.0]]).to(dtype)
    values, positions = ops.pack_2_4(w)
    assert values.tolist() == [[1, 2, 0, 0]]
    assert not values.signbit().any()
    assert torch.equal(ops.unpack_2_4(values, positions, 8), w)
    assert ops.first_not_2_4(w) == (-1, -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormals_are_kept(dtype):
    tiny = torch.finfo(dtype).smallest_normal / 4
    w = torch.tensor([[0, tiny, -tiny, 0]], dtype=dtype)
    assert torch.equal(ops.prune_2_4(w), w)
    assert torch.equal(ops.unpack_2_4(*ops.pack_2_4(w), 4), w)


def test_a_strided_weight_is_taken_as_it_reads():
    w = torch.randn(40, 24)
    assert torch.equal(ops.prune_2_4(w.t()), pruned_in_python(w.t().contiguous()))
    values, _ = ops.pack_2_4(ops.prune_2_4(w)[::2])
    assert values.shape == (20, 12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("row", "column"), [(0, 0), (17, 101), (499, 203)])
def test_the_first_bad_group_is_named(dtype, row, column):
    w = ops.prune_2_4(torch.randn(500, 205).to(dtype))
    assert ops.first_not_2_4(w) == (-1, -1)
    group = column // 4
    w[row:, 4 * group : 4 * group + 4] = 1
    assert ops.first_not_2_4(w) == ((row, group) if group < 51 else (-1, -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_value_that_is_not_finite_is_named(dtype, bad):
    w = torch.randn(300, 129).to(dtype)
    w[0, 0] = torch.finfo(dtype).max
    assert ops.first_not_finite(w) == (-1, -1)
    w[250, 3] = w[123, 128] = w[124, 0] = bad
    assert ops.first_not_finite(w) == (123, 128)


@pytest.mark.parametrize("name", ["prune_2_4", "pack_2_4", "first_not_2_4", "first_not_finite"])
def test_what_is_no_weight_is_refused(name):
    op = getattr(ops, name)
    with pytest.raises(RuntimeError, match=f"sparseflow::{name}: weight must be a matrix"):
        op(torch.randn(4))
    with pytest.raises(
        RuntimeError, match=f"sparseflow::{name}: weight must be float32, bfloat16 or float16"
    ):
        op(torch.ones(4, 4, dtype=torch.float64))


def test_unpacking_refuses_what_does_not_fit():
    values, positions = ops.pack_2_4(torch.randn(4, 16))
    with pytest.raises(RuntimeError, match="sparseflow::unpack_2_4: in_features 24 needs values"):
        ops.unpack_2_4(values, positions, 24)
