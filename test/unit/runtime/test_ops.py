"""The operators inside torch: fake tensors, torch.compile, export, autocast, autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sparseflow.errors import InferenceOnlyError
from sparseflow.runtime import PackedWeight, compress_2_4, ops, prune_24, sparse_mm


def layer(n=12, k=20, dtype=torch.float32):
    weight = prune_24(torch.randn(n, k).to(dtype))
    return weight, compress_2_4(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lead", [(), (3,), (2, 5), (0, 4)])
def test_opcheck_linear(lead, dtype):
    _, packed = layer(dtype=dtype)
    x = torch.randn(*lead, 20).to(dtype)
    bias, residual = torch.randn(12).to(dtype), torch.randn(*lead, 12).to(dtype)
    for extra in ((None, None), (bias, residual)):
        arguments = (x, packed.values, packed.positions, *extra, 20, "gelu", [1, 1, 4, 0])
        torch.library.opcheck(ops.linear, arguments)
        torch.library.opcheck(ops.linear, arguments, {"dense": torch.randn(12, 20).to(dtype)})


@pytest.mark.parametrize("k", [4, 9, 20])
def test_opcheck_pruning_and_packing(k):
    weight, packed = layer(6, k)
    torch.library.opcheck(ops.prune_2_4, (torch.randn(6, k),))
    torch.library.opcheck(ops.pack_2_4, (weight,))
    torch.library.opcheck(ops.unpack_2_4, (packed.values, packed.positions, k))


def test_meta_tensors_give_shapes():
    packed = compress_2_4(torch.empty(64, 30, dtype=torch.bfloat16, device="meta"))
    y = sparse_mm(torch.empty(2, 7, 30, dtype=torch.bfloat16, device="meta"), packed)
    assert (y.shape, y.dtype, y.device.type) == ((2, 7, 64), torch.bfloat16, "meta")


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiles_into_one_graph_and_serves_every_batch_size(backend):
    weight, packed = layer()
    bias = torch.randn(12)

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def compiled(x):
        return sparse_mm(x * 2, packed, bias, "silu") + 1

    for m in (5, 1, 9):
        x = torch.randn(m, 20)
        with torch.no_grad():
            got = compiled(x)
        torch.testing.assert_close(got, F.silu(F.linear(x * 2, weight, bias)) + 1, rtol=1e-4, atol=1e-4)


def test_compiles_as_a_module_that_holds_the_weight():
    class Layer(torch.nn.Module):
        def __init__(self, packed: PackedWeight):
            super().__init__()
            self.weight = packed

        def forward(self, x):
            return sparse_mm(x, self.weight, activation="relu")

    weight, packed = layer()
    x = torch.randn(3, 20)
    with torch.inference_mode():
        got = torch.compile(Layer(packed), fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(got, F.relu(F.linear(x, weight)), rtol=1e-4, atol=1e-4)


def test_exports_with_a_dynamic_batch():
    weight, packed = layer()

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.packed = packed

        def forward(self, x):
            return sparse_mm(x, self.packed)

    program = torch.export.export(
        Layer(), (torch.randn(4, 20),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    assert any(node.target is ops.linear for node in program.graph.nodes)
    x = torch.randn(11, 20)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), F.linear(x, weight), rtol=1e-4, atol=1e-4)


def test_a_gradient_is_refused_by_the_operator_itself():
    _, packed = layer()
    x = torch.randn(2, 20, requires_grad=True)
    arguments = (packed.values, packed.positions, None, None, 20, "none", [])
    with pytest.raises(InferenceOnlyError, match=r"torch\.ops\.sparseflow\.linear"):
        torch.ops.sparseflow.linear(x, *arguments)
    with torch.no_grad():
        assert torch.ops.sparseflow.linear(x, *arguments).grad_fn is None


@pytest.mark.parametrize("name", ["prune_2_4", "pack_2_4"])
def test_pruning_operators_refuse_gradients_too(name):
    weight = torch.zeros(4, 8, requires_grad=True)
    with pytest.raises(InferenceOnlyError, match=name):
        getattr(torch.ops.sparseflow, name)(weight)


@pytest.mark.parametrize("packed_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_does_what_it_does_to_linear(x_dtype, packed_dtype):
    weight, packed = layer(dtype=packed_dtype)
    x, bias = torch.randn(3, 20).to(x_dtype), torch.randn(12)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = sparse_mm(x, packed, bias), F.linear(x, weight, bias)
        packed_again = compress_2_4(weight)
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    assert packed_again.dtype == packed_dtype


def test_autocast_that_is_off_casts_nothing():
    _, packed = layer()
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        assert sparse_mm(torch.randn(3, 20), packed).dtype == torch.float32


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_autocast_compiles(backend):
    weight, packed = layer(dtype=torch.bfloat16)

    @torch.compile(fullgraph=True, backend=backend)
    def compiled(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return sparse_mm(x, packed)

    x = torch.randn(3, 20)
    with torch.no_grad():
        got = compiled(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, F.linear(x.bfloat16(), weight), rtol=2e-2, atol=2e-2)


def with_dense(x, packed, dense, policy=(1, 0), epilogue="none"):
    return ops.linear(x, packed.values, packed.positions, None, None, 20, epilogue, list(policy), dense=dense)


def test_a_dense_range_multiplies_by_the_dense_weight_that_came_along():
    weight, packed = layer()
    x = torch.randn(3, 20)
    torch.testing.assert_close(with_dense(x, packed, weight), F.linear(x, weight))
    # Another matrix in its place shows whose product it is, in each range.
    other = torch.randn(12, 20)
    torch.testing.assert_close(with_dense(x, packed, other, epilogue="relu"), F.relu(F.linear(x, other)))
    torch.testing.assert_close(
        with_dense(x, packed, other, (1, 1)), F.linear(x, weight), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(with_dense(x, packed, other.T.contiguous().T), F.linear(x, other))


@pytest.mark.parametrize("dense", [torch.randn(12, 19), torch.randn(20, 12), torch.randn(12 * 20)])
def test_a_dense_weight_of_another_shape_is_refused(dense):
    _, packed = layer()
    for x in (torch.randn(3, 20), torch.randn(3, 20, device="meta")):
        with pytest.raises(RuntimeError, match=r"dense must be the weight \[12, 20\]"):
            with_dense(x, packed.to(x.device), dense.to(x.device))


def test_a_dense_weight_of_another_dtype_is_refused():
    weight, packed = layer()
    with pytest.raises(RuntimeError, match="dense must have the dtype of the weight, Float, got BFloat16"):
        with_dense(torch.randn(3, 20), packed, weight.bfloat16())


def test_autocast_casts_the_dense_weight_too():
    weight, packed = layer()
    x = torch.randn(3, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, expected = with_dense(x, packed, weight), F.linear(x, weight)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected)


def test_the_kernel_for_many_rows_has_a_fake():
    e4m3 = torch.float8_e4m3fn
    x, values, places = (
        torch.empty(size, dtype=dtype, device="meta")
        for size, dtype in (((3, 2, 64), e4m3), ((128, 32), e4m3), (1024, torch.uint8))
    )
    y = ops.wide_linear(x, values, places, 64, 0)
    assert (y.shape, y.dtype) == ((3, 2, 128), torch.bfloat16)
    with pytest.raises(RuntimeError, match="wide_linear: x has 64 features, the weight 60"):
        ops.wide_linear(x, values, places, 60, 0)
    with pytest.raises(RuntimeError, match=r"wide_linear: x is torch\.bfloat16, weight torch\.float8_e4m3fn"):
        ops.wide_linear(x.to(torch.bfloat16), values, places, 64, 0)


def test_the_kernel_for_few_rows_has_a_fake_and_refuses_gradients():
    x, values, places = (
        torch.empty(size, dtype=dtype, device="meta")
        for size, dtype in (((3, 2, 64), torch.bfloat16), ((128, 32), torch.bfloat16), (1024, torch.uint8))
    )
    y = ops.skinny_linear(x, values, places, None, None, 64, "none", -1)
    assert (y.shape, y.dtype) == ((3, 2, 128), torch.bfloat16)
    with pytest.raises(RuntimeError, match="skinny_linear: x has 64 features, the weight 60"):
        ops.skinny_linear(x, values, places, None, None, 60, "none", -1)
    with pytest.raises(InferenceOnlyError):
        ops.skinny_linear(x.requires_grad_(), values, places, None, None, 64, "none", -1)
