"""fp8 layers on the GPU: the operator in both forms, against fp64, and through sf.compile."""

import copy
import dataclasses

import pytest
import torch
from gpu_weights import ACTIVATIONS, E4M3, error, inputs, pruned
from torch import nn

import sparseflow as sf
from sparseflow.runtime import PackedWeight, fp8, gpu
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.packed import pack

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="this GPU has no tensor cores for fp8",
)

N, K = 256, 512
# Tensor cores add fp8 products with few bits (the tuner's bound for them is the same).
BOUND = 4e-2
# Against the same layer run another way: a rounding of the product and one of the result.
SAME = 1e-2


def weight_of(n=N, k=K, dtype=torch.bfloat16, ms=()):
    """A weight; its plans for these M's are built, so that no call runs densely for want of one."""
    weight = pack(pruned(n, k, dtype), "2:4-fp8")
    prepare(weight, ms)
    return weight


def prepare(weight, ms, policy=()):
    device = gpu.DeviceWeight(weight.values, weight.positions, weight.in_features)
    assert gpu.prepare(device, ms, policy) == len(ms)
    return device


def run(x, weight, bias=None, residual=None, epilogue="none", policy=(), dense=None, op=fp8.linear_fp8):
    values, positions, scales, k = weight.values, weight.positions, weight.scales, weight.in_features
    return op(x, values, positions, scales, bias, residual, k, epilogue, list(policy), dense)


def reference(x, weight, bias=None, residual=None, epilogue="none"):
    x8, scale = fp8.quantize_rows(x)
    dense = weight.format.dense(weight.tensors, weight.in_features)
    w = dense.double() * weight.scales.double()[:, None]
    y = (x8.double() * scale.double()) @ w.T
    y = ACTIVATIONS[epilogue](y if bias is None else y + bias.double())
    return y if residual is None else y + residual.double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("epilogue", ["none", "relu", "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("shape", [(256, 512), (1088, 320), (128, 14336)])
def test_is_the_product_of_the_dequantised_operands(shape, epilogue, dtype):
    n, k = shape
    rows = (1, 3, 17, 100, 257)
    weight = weight_of(n, k, dtype, rows)
    for m in rows:
        x, bias, residual = (inputs(*size, dtype, seed=m) for size in ((m, k), (1, n), (m, n)))
        for extra in ((None, None), (bias[0], None), (bias[0], residual)):
            y = run(x, weight, *extra, epilogue)
            assert (y.dtype, y.is_contiguous()) == (dtype, True)
            assert error(y, reference(x, weight, *extra, epilogue)) < BOUND


def test_the_sparse_kernel_runs_and_is_what_was_asked_for():
    weight, policy = weight_of(), [1, Choice("cusparselt", 3).code]
    device = prepare(weight, [32], policy)
    assert gpu.path(device, 32, policy) == "cusparselt, algorithm 3"
    assert gpu.path(device, 32, [1, 0]) == "dense: the policy says so"
    hits = gpu.stats().hits
    run(inputs(32, K, torch.bfloat16), weight, policy=policy)
    assert gpu.stats().hits == hits + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quantises_rows_as_torch_does(dtype):
    """Sparse and dense, fused and traced: the same rows, the same scales."""
    weight = weight_of(dtype=dtype, ms=(1, 33, 128))
    weight.keep_dense()
    for m in (1, 33, 128):
        x = inputs(m, K, dtype, seed=m) * torch.logspace(-3, 3, m, device="cuda")[:, None].to(dtype)
        ways = [
            run(x, weight),
            run(x, weight, policy=[1, 0]),
            run(x, weight, policy=[1, 0], dense=weight.dense),
        ]
        x8, scale = fp8.quantize_rows(x)
        raw = fp8.product_fp8(x8, weight.values, weight.positions, K, [])
        ways.append(fp8.rescale(raw, scale, weight.scales, None, "none", None).to(dtype))
        for way in ways:
            # Row by row: the rows' magnitudes differ by a million.
            expected = reference(x, weight)
            rows = (way.double() - expected).norm(dim=1) / expected.norm(dim=1)
            assert rows.max() < BOUND
        assert error(ways[0], ways[3].double()) < SAME
        assert torch.equal(ways[1], ways[2])


@pytest.mark.parametrize("epilogue", ["none", "gelu_tanh"])
def test_many_dense_rows_are_scaled_by_the_product_itself(epilogue):
    """Eagerly and compiled, whose quantising inductor fuses; a row of NaN gives a row of NaN."""
    weight, m = weight_of(), fp8.BY_ROWS
    weight.keep_dense()
    x, bias = inputs(m, K, torch.bfloat16), inputs(1, N, torch.bfloat16)[0]
    x[3] = float("nan")
    options = {"bias": bias, "epilogue": epilogue, "policy": [1, fp8.DENSE], "dense": weight.dense}
    ways = [run(x, weight, **options), torch.compile(run)(x, weight, **options)]
    expected = reference(x, weight, bias, epilogue=epilogue)
    rest = [row for row in range(m) if row != 3]
    for y in ways:
        assert y[3].isnan().all()
        assert error(y[rest], expected[rest]) < BOUND


GATES = {
    "skinny, variant 30; the gate is part of it": [1, Choice("skinny", 30).code],
    "skinny, variant 0; the gate follows in a kernel of its own": [1, Choice("skinny", 0).code],
    "cusparselt, algorithm 3; the gate follows in a kernel of its own": [1, Choice("cusparselt", 3).code],
    "dense: the policy says so; the gate follows in a kernel of its own": [1, 0],
}


def whole(x, weight, bias):
    """The product with x as it is."""
    dense = weight.format.dense(weight.tensors, weight.in_features)
    return x.double() @ (dense.double() * weight.scales.double()[:, None]).T + bias.double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", GATES)
def test_a_gated_layer_on_every_path(path, dtype):
    if "30" in path and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the variant is for sm_90")
    weight, policy, rows = weight_of(1408, 1088, dtype), GATES[path], (1, 2, 16, 33, 64, 65, 200)
    device = prepare(weight, rows, policy) if "cusparselt" in path else None
    device = device or gpu.DeviceWeight(weight.values, weight.positions, weight.in_features)
    bias = inputs(1, 1408, dtype, seed=2)[0]
    for m in rows:
        x = inputs(m, 1088, dtype, seed=m)
        for activation in ("silu", "gelu_tanh"):
            # The kernel for few rows leaves x in 16 bits.
            exact = whole(x, weight, bias) if "skinny" in path else reference(x, weight, bias)
            gate, up = exact.chunk(2, -1)
            y = run(x, weight, bias, epilogue=f"{activation}_gated", policy=policy)
            assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, (m, 704), True)
            assert error(y, ACTIVATIONS[activation](gate) * up) < (SAME if "skinny" in path else BOUND), m
        assert gpu.path(device, m, policy, bias=True, epilogue="silu_gated") == path


def test_a_gated_layer_refuses_a_residual_and_empty_batches_stay_empty():
    weight = weight_of(ms=(4,))
    with pytest.raises(RuntimeError, match="takes no residual"):
        run(inputs(4, K, torch.bfloat16), weight, None, inputs(4, N // 2, torch.bfloat16), "silu_gated")
    y = run(torch.empty(2, 0, K, device="cuda", dtype=torch.bfloat16), weight, epilogue="silu_gated")
    assert y.shape == (2, 0, N // 2)


def test_zero_nan_and_infinite_rows():
    weight = weight_of(ms=(5, 64))
    bias = inputs(1, N, torch.bfloat16)[0]
    for m in (5, 64):
        x = inputs(m, K, torch.bfloat16)
        expected = run(x, weight, bias)
        x[0], x[1, 3], x[2, 4], x[3, 5] = 0, float("nan"), float("inf"), -float("inf")
        for policy in ([], [1, 0]):
            y = run(x, weight, bias, policy=policy)
            assert torch.equal(y[0], bias)
            assert y[1:4].isnan().all()
            assert error(y[4:], expected[4:].double()) < SAME


@pytest.mark.parametrize("magnitude", [3e38, 1e-30, 1e-38])
def test_the_ends_of_the_range_neither_overflow_nor_become_nan(magnitude):
    weight = pack(pruned(N, K, torch.bfloat16) * 0.1, "2:4-fp8")
    x = (torch.randn(4, K, device="cuda").clamp(-1, 1) * magnitude).bfloat16()
    y = run(x, weight)
    assert y.isfinite().all()
    assert magnitude < 1e-36 or error(y, reference(x, weight)) < BOUND


def test_empty_strided_and_misaligned_inputs():
    weight = weight_of(ms=(40, 14))
    assert run(torch.empty(2, 0, K, device="cuda", dtype=torch.bfloat16), weight).shape == (2, 0, N)
    wide = inputs(40, 2 * K + 8, torch.bfloat16)
    for x in (wide[:, :K], wide[:, 1 : K + 1], wide[::3, 8 : K + 8]):
        assert torch.equal(run(x, weight), run(x.contiguous().clone(), weight))


def test_wrong_arguments_are_refused_by_name():
    weight = weight_of()
    with pytest.raises(RuntimeError, match=r"x must be bfloat16 or float16 \[\.\.\., 512\]"):
        run(inputs(4, K, torch.float32), weight)
    with pytest.raises(RuntimeError, match="bias must be"):
        run(inputs(4, K, torch.bfloat16), weight, bias=torch.zeros(3, device="cuda"))
    with pytest.raises(RuntimeError, match="values must be float8_e4m3fn"):
        fp8.product_fp8(inputs(4, K, E4M3), weight.values.bfloat16(), weight.positions, K, [])


def test_a_captured_graph_follows_its_inputs():
    weight = weight_of(512, 1024, ms=(16,))
    for policy in ([], [1, 0]):
        x = inputs(16, 1024, torch.bfloat16)
        run(x, weight, policy=policy)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = run(x, weight, policy=policy)
        for seed in (7, 8):
            x.copy_(inputs(16, 1024, torch.bfloat16, seed=seed))
            graph.replay()
            assert error(y, reference(x, weight)) < BOUND


def test_a_weight_moves_to_the_gpu_and_back():
    weight = pack(pruned(N, K, torch.bfloat16).cpu(), "2:4-fp8")
    before = {name: tensor.clone() for name, tensor in weight.state_dict().items()}
    moved = weight.cuda()
    assert moved.positions.dim() == 1
    after = moved.cpu().state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor.view(torch.uint8), after[name].view(torch.uint8))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(256, 512, bias=False)
        self.up = nn.Linear(256, 512, bias=False)
        self.down = nn.Linear(512, 256)
        self.odd = nn.Linear(256, 72)

    def forward(self, x):
        return self.odd(x + self.down(nn.functional.silu(self.gate(x)) * self.up(x)))


def pruned_twin(model, *more):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("gate", "up", "down", *more):
            layer = twin.get_submodule(name)
            layer.weight.copy_(sf.prune_24(layer.weight))
    return twin


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mlp().eval().to("cuda", torch.bfloat16)


@pytest.mark.parametrize("inner", ["eager", "inductor"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_compiled_model_stays_near_the_pruned_one(model, inner, inplace):
    twin = pruned_twin(model, "odd")
    compiled = sf.compile(
        model, prune="magnitude", policy="sparse", format="2:4-fp8", inner=inner, inplace=inplace
    )
    for m in (4, 3, 17, 100, 130):
        x = inputs(m, 256, torch.bfloat16, seed=m)
        with torch.no_grad():
            assert 0 < error(compiled(x), twin(x).double()) < 0.06
    layers = {layer.name: layer for layer in compiled.report.layers}
    assert "not in 2:4-fp8: N and K must be multiples of 64, got N=72" in layers["odd"].reason
    assert layers["odd"].format_err is None
    for name in ("gate", "up", "down"):
        found = layers[name].format_err
        assert found is not None
        assert 0.02 < found.weight < 0.03
        assert found.output is None if inplace else 0.02 < found.output < 0.06


@pytest.mark.parametrize("inner", ["eager", "inductor"])
@pytest.mark.parametrize("memory", ["auto", "compressed", "fast"])
def test_every_range_of_a_policy_gives_the_same(model, memory, inner, monkeypatch):
    def policies(shapes, dtype, device, **options):
        policy = Policy.parse("1:cusparselt@3,32:dense,128:cusparselt@5")
        policy = dataclasses.replace(policy, keeps_dense=memory != "compressed")
        return dict.fromkeys(shapes, policy if dtype == E4M3 else "as if untuned")

    monkeypatch.setattr("sparseflow.runtime.products.which.policies", policies)
    twin = pruned_twin(model, "odd")
    compiled = sf.compile(model, prune="magnitude", format="2:4-fp8", memory=memory, inner=inner)
    for m in (2, 31, 32, 127, 128, 300, 1):
        x = inputs(m, 256, torch.bfloat16, seed=m)
        with torch.no_grad():
            assert error(compiled(x), twin(x).double()) < 0.06
    kept = [
        m.dense is not None
        for m in compiled.graph().modules()
        if isinstance(m, PackedWeight) and m.format.lossy
    ]
    assert kept == [memory != "compressed"] * 2


def test_what_no_table_has_stays_dense_in_bf16_and_says_so(model):
    x = inputs(4, 256, torch.bfloat16)
    compiled = sf.compile(model, (x,), prune="magnitude", format="2:4-fp8", tune="off")
    reasons = {layer.name: layer.reason for layer in compiled.report.layers}
    assert "no table has 1024×256 float8_e4m3fn" in reasons["gate"]
    assert all(layer.decision == "dense" for layer in compiled.report.layers)


def test_the_shipped_table_runs_a_large_layer_sparse_in_fp8():
    model = nn.Sequential(nn.Linear(4096, 14336, bias=False)).eval().to("cuda", torch.bfloat16)
    (layer,) = sf.compile(
        model, (inputs(64, 4096, torch.bfloat16),), prune="magnitude", format="2:4-fp8"
    ).report.layers
    if "no table" in layer.reason:
        pytest.skip(layer.reason)
    assert layer.decision == "sparse"
    assert "dense in f8E4M3FN too" in layer.reason
    assert any(entry.backend.startswith("cusparselt") for entry in layer.ranges)
