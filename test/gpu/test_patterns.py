"""Weights of 4:6 and 6:8 on a GPU: tiles, the kernel for few rows, what compiled models run."""

import copy

import pytest
import torch
import torch.nn.functional as F
from gpu_weights import ACTIVATIONS, TOLERANCE, error, inputs, reference
from torch import nn

import sparseflow as sf
from sparseflow.runtime import gpu
from sparseflow.runtime.formats import find
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.packed import pack
from sparseflow.runtime.tiled_weight import TiledWeight

EACH = pytest.mark.parametrize("pattern", ["4:6", "6:8"])
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
VARIANTS = range(torch.ops.sparseflow.pattern_variants(64, 64, 1))
SHAPES = [(8, 8), (64, 128), (200, 264), (1000, 1030), (136, 5000), (4104, 520), (6144, 4096), (256, 14336)]


def pruned(n, k, pattern, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    weight = torch.randn(n, k, generator=generator, device="cuda") * 0.1
    return (sf.Pattern.of(pattern).prune(weight) + 0.0).to(dtype)


def tiled(weight, pattern):
    return TiledWeight.of_dense(weight, sf.Pattern.of(pattern).block)


def product(x, weight, bias=None, residual=None, epilogue="none", variant=-1):
    return torch.ops.sparseflow.pattern_linear(
        x,
        weight.values,
        weight.positions,
        bias,
        residual,
        weight.in_features,
        epilogue,
        weight.block,
        variant,
    )


def linear(x, packed, epilogue="none", policy=(), dense=None):
    return packed.format.op(x, *packed.tensors, None, None, packed.in_features, epilogue, list(policy), dense)


@EACH
@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_hold_the_weight_and_turn_back(shape, dtype, pattern):
    weight = pruned(*shape, pattern, dtype)
    values, codes = find(pattern).pack(weight)
    tiles = tiled(weight, pattern)
    assert torch.equal(tiles.dense(), weight)
    assert all(map(torch.equal, tiles.portable(), (values, codes)))
    assert tiles.positions.dim() == 1


@EACH
@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_of_rows_is_the_product_with_the_pruned_weight(shape, dtype, pattern):
    weight = pruned(*shape, pattern, dtype)
    tiles = tiled(weight, pattern)
    for m in (1, 2, 3, 8, 9, 16, 17, 31, 33, 64, 65, 150):
        x = inputs(m, shape[1], dtype, seed=m)
        assert error(product(x, tiles), reference(x, weight)) < TOLERANCE[dtype], m


@EACH
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_the_product_and_the_same_bits_each_time(variant, pattern):
    dtype = torch.bfloat16
    for n, k in ((64, 1024), (328, 1088), (2048, 4096)):
        weight = pruned(n, k, pattern)
        tiles = tiled(weight, pattern)
        for m in (1, 7, 16, 29, 64, 77):
            x, bias = inputs(m, k, dtype, seed=m), inputs(1, n, dtype, seed=2)[0]
            residual = inputs(m, n, dtype, seed=3)
            y = product(x, tiles, bias, residual, "silu", variant)
            assert error(y, reference(x, weight, bias, residual, "silu")) < TOLERANCE[dtype], (n, k, m)
            for _ in range(3):
                assert torch.equal(product(x, tiles, bias, residual, "silu", variant), y)


@EACH
@pytest.mark.parametrize("epilogue", ACTIVATIONS)
def test_every_epilogue(epilogue, pattern):
    weight = pruned(1088, 320, pattern)
    for m in (1, 17, 64):
        x = inputs(m, 320, torch.bfloat16)
        y = product(x, tiled(weight, pattern), epilogue=epilogue)
        assert error(y, reference(x, weight, epilogue=epilogue)) < TOLERANCE[torch.bfloat16]


@EACH
@pytest.mark.parametrize("n", [128, 200, 1408, 4096])
def test_a_gate_inside_the_kernel_or_behind_it(n, pattern):
    weight = pruned(n, 1088, pattern)
    packed = pack(weight, pattern)
    for m in (1, 16, 33, 130):
        x = inputs(m, 1088, torch.bfloat16, seed=m)
        gate, up = reference(x, weight).chunk(2, -1)
        expected = F.silu(gate) * up
        for policy in ((), (1, Choice("tiles", 1).code), (1, Choice("dense").code)):
            found = linear(x, packed, "silu_gated", policy)
            assert error(found, expected) < 2 * TOLERANCE[torch.bfloat16], (m, policy)


@EACH
def test_what_lies_behind_x_is_not_read(pattern):
    weight = pruned(72, 1000, pattern)
    x = torch.full((40, 1000), float("nan"), device="cuda", dtype=torch.bfloat16)
    x[:8] = 1
    assert product(x[:8], tiled(weight, pattern)).isfinite().all()


@EACH
def test_nan_and_infinity_stay_in_their_rows(pattern):
    weight = pruned(256, 512, pattern)
    x = inputs(5, 512, torch.bfloat16)
    x[1, :] = float("nan")
    x[3, 7] = float("inf")
    y = product(x, tiled(weight, pattern))
    assert y[1].isnan().all()
    assert not y[3].isfinite().all()
    assert y[[0, 2, 4]].isfinite().all()


@EACH
def test_empty_batches_and_weights(pattern):
    packed = pack(pruned(64, 128, pattern), pattern)
    assert linear(torch.empty(0, 128, device="cuda", dtype=torch.bfloat16), packed).shape == (0, 64)
    assert linear(torch.empty(2, 0, 128, device="cuda", dtype=torch.bfloat16), packed).shape == (2, 0, 64)
    none = pack(torch.empty(0, 16, device="cuda", dtype=torch.bfloat16), pattern)
    assert linear(torch.ones(3, 16, device="cuda", dtype=torch.bfloat16), none).shape == (3, 0)


@EACH
def test_the_operator_runs_what_the_policy_says(pattern):
    weight = pruned(512, 1024, pattern)
    packed = pack(weight, pattern)
    x = inputs(24, 1024, torch.bfloat16)
    expected = reference(x, weight)
    dense = [1, Choice("dense").code]
    assert torch.equal(linear(x, packed, policy=dense), F.linear(x, weight))
    assert torch.equal(linear(x, packed, policy=dense, dense=weight), F.linear(x, weight))
    for variant in VARIANTS:
        found = linear(x, packed, policy=[1, Choice("tiles", variant).code])
        assert torch.equal(found, product(x, tiled(weight, pattern), variant=variant))
        assert error(found, expected) < TOLERANCE[torch.bfloat16]


@EACH
def test_it_says_what_runs_and_why_not(pattern):
    tiles = tiled(pruned(256, 1024, pattern), pattern)
    assert gpu.path(tiles, 8, [1, Choice("tiles", 1).code]) == "tiles, variant 1"
    assert gpu.path(tiles, 8, [1, Choice("dense").code]) == "dense: the policy says so"
    assert gpu.path(tiles, 8, [1, Choice("tiles", 2).code], epilogue="silu_gated") == (
        "tiles, the default variant; the gate is part of it"
    )
    assert gpu.path(tiles, 8, [1, Choice("tiles", 9).code]).startswith(
        "dense: the kernel for few rows has no variant 9"
    )
    assert gpu.path(tiles, 0) == "nothing: the result is empty"


@EACH
def test_float32_is_multiplied_densely(pattern):
    weight = pruned(64, 96, pattern, torch.float32)
    packed = pack(weight, pattern)
    assert packed.tensors[1].dim() == 2, "it stays in the portable form"
    x = inputs(3, 96, torch.float32)
    assert error(linear(x, packed), reference(x, weight)) < 1e-3  # TF32 may be on


@EACH
def test_what_the_kernel_refuses(pattern):
    weight, x = tiled(pruned(64, 128, pattern), pattern), inputs(2, 128, torch.bfloat16)
    with pytest.raises(RuntimeError, match="has no variant 99"):
        product(x, weight, variant=99)
    with pytest.raises(RuntimeError, match="x must be BFloat16"):
        product(x.half(), weight)
    with pytest.raises(RuntimeError, match="needs the tiles of a weight"):
        torch.ops.sparseflow.pattern_dense(
            weight.values[:, :-2].contiguous(), weight.positions, 128, weight.block
        )


@EACH
def test_it_runs_in_a_cuda_graph_and_on_another_stream(pattern):
    weight = pruned(4096, 4096, pattern)
    packed = pack(weight, pattern)
    x = inputs(8, 4096, torch.bfloat16)
    expected = linear(x, packed)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            y = linear(x, packed)
        for _ in range(20):
            y.fill_(0)
            graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, expected)


@EACH
def test_moving_there_and_back_changes_nothing(pattern):
    here = pack(pruned(200, 264, pattern).cpu(), pattern)
    there = copy.deepcopy(here).cuda()
    assert torch.equal(there.unpack().cpu(), here.unpack())
    assert all(map(torch.equal, (t.cpu() for t in there.portable()), here.tensors))
    before = there.unpack()
    there.settle()
    assert torch.equal(there.unpack(), before)
    assert all(map(torch.equal, copy.deepcopy(there).cpu().tensors, here.tensors))


@EACH
def test_a_compiled_model_runs_them_is_saved_and_loaded(pattern, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 2048), nn.GELU(), nn.Linear(2048, 512, bias=False))
    model = model.cuda().to(torch.bfloat16).eval()
    sf.prune(model, pattern=pattern, progress=False)
    x = inputs(5, 1024, torch.bfloat16)
    compiled = sf.compile(model, (x,), policy="sparse", progress=False)
    with torch.no_grad():
        expected = model(x)
        found = compiled(x)
        assert error(found, expected.double()) < 2e-2
        compiled.save(tmp_path / "saved")
        assert torch.equal(sf.load(tmp_path / "saved")(x), found)
    layers = compiled.report.to_dict()["layers"]
    assert {(layer["decision"], layer["format"]) for layer in layers} == {("sparse", pattern)}


@EACH
def test_quick_tuning_decides_by_measurement(pattern):
    from sparseflow.runtime.products import which

    shape = (8192, 4096)
    found = which.policies([shape], torch.bfloat16, torch.device("cuda", 0), format=pattern, memory="fast")
    policy = found[shape]
    assert not isinstance(policy, str), policy
    assert {m for m, _ in policy.measured} >= {1, 16, 256, 2048}
    assert policy.choice(2048).is_dense
    assert not policy.losing
