"""MLPs whose weights are in pinned host memory, with a cache on the GPU."""

import pytest
import torch
from gpu_weights import error

from sparseflow.runtime.contextual import ContextualWeights, Predictor
from sparseflow.runtime.contextual.tiered import DifferentialCache, HostWeights, TieredMLP
from sparseflow.runtime.contextual.tiered.fetch import contextual_fetch
from sparseflow.runtime.contextual.tiered.source import PER_NEURON

HIDDEN, NEURONS = 264, 700


def weights(dtype=torch.bfloat16, gated=True):
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    gate, up, down = (randn(NEURONS, HIDDEN) / HIDDEN**0.5 for _ in range(3))
    down = down.T.contiguous()
    bias = {"up_bias": randn(NEURONS), "down_bias": randn(HIDDEN)}
    return ContextualWeights.of(gate if gated else None, up, down, **bias, activation="silu")


def predictor(rule="top_k", parameter=100):
    generator = torch.Generator("cuda").manual_seed(1)
    a = torch.randn(16, HIDDEN, generator=generator, device="cuda")
    return Predictor(a, torch.randn(NEURONS, 16, generator=generator, device="cuda"), None, rule, parameter)


def mask(seed, share):
    return (torch.rand(NEURONS, generator=torch.Generator().manual_seed(seed)) < share).cuda()


def tokens(count, dtype=torch.bfloat16):
    generator = torch.Generator("cuda").manual_seed(2)
    return [torch.randn(2, HIDDEN, generator=generator, device="cuda").to(dtype) for _ in range(count)]


def capacity(source, slots):
    return slots * (source.outline.neuron_bytes + 8) + 4 * (NEURONS + 4) + source.outline.down_bias.nbytes


def reference(w, x, wanted):
    at = wanted.nonzero().view(-1).int()
    padded = torch.cat([at, at.new_zeros(NEURONS - len(at))])
    return w.run(x, padded, torch.tensor([len(at)], dtype=torch.int32, device="cuda"))


def check(cache, w):
    for neuron in cache.resident.nonzero().view(-1).tolist():
        slot = int(cache._slot_of[neuron])
        assert int(cache._neuron_of[slot]) == neuron
        for name in PER_NEURON:
            if (whole := getattr(w, name)) is not None:
                assert torch.equal(getattr(cache.weights, name)[slot].cpu(), whole[neuron])


@pytest.mark.parametrize("form", ["gated", "plain", "int8", "float32"])
def test_any_masks_give_what_all_weights_would_with_room_and_without(form):
    dtype = torch.float32 if form == "float32" else torch.bfloat16
    w = weights(dtype, gated=form != "plain")
    w = w.quantized() if form == "int8" else w
    source, there = HostWeights.pin(w), w.to(device="cuda")
    for slots in (1, 50, 300, NEURONS):
        mlp = TieredMLP(source, predictor(), capacity(source, slots))
        assert mlp.cache.slots == slots
        for turn, (x, share) in enumerate(
            zip(tokens(7, dtype), (0.3, 0.3, 0, 1, 0.05, 0.3, 0.6), strict=True)
        ):
            wanted = mask(turn, share)
            assert error(mlp.over(x, wanted), reference(there, x, wanted).double()) < 2e-2
            check(mlp.cache, w)


def test_prefetching_on_another_stream_changes_no_result():
    w = weights()
    source, there, p = HostWeights.pin(w), w.to(device="cuda"), predictor()
    layers = [TieredMLP(source, p, capacity(source, 250)) for _ in range(3)]
    for x in tokens(20):
        for at, layer in enumerate(layers):
            if at + 1 < len(layers):
                layers[at + 1].prefetch(x)
            assert error(layer(x), p.run(x, there).double()) < 2e-2
    for layer in layers:
        check(layer.cache, w)


def test_a_captured_graph_keeps_the_cache_up_to_date():
    w = weights()
    source, there, p = HostWeights.pin(w), w.to(device="cuda"), predictor()
    mlp, x = TieredMLP(source, p, capacity(source, 250)), tokens(1)[0]
    mlp.prefetch(x)
    mlp(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mlp.prefetch(x)
        y = mlp(x)
    for fresh in tokens(9):
        x.copy_(fresh)
        graph.replay()
        assert error(y, p.run(x, there).double()) < 2e-2
    check(mlp.cache, w)


@pytest.mark.parametrize("width", [1, 3, 8, 4096, 5000])
@pytest.mark.parametrize("pinned", [True, False])
def test_fetching_moves_the_listed_rows_and_no_others(width, pinned):
    rows = torch.randn(50, width).bfloat16()
    rows = rows.pin_memory() if pinned else rows.cuda()
    to = torch.zeros(9, width, dtype=torch.bfloat16, device="cuda")
    neurons = torch.randperm(50).int().cuda()
    slots = torch.randperm(9).int().cuda()
    for count in (0, 4, 9, 60):
        given = torch.tensor([count], dtype=torch.int32, device="cuda")
        expected, n = to.clone(), min(count, 9)
        expected[slots[:n].long()] = rows.cuda()[neurons[:n].long()]
        contextual_fetch(to, rows, neurons, slots, given)
        assert torch.equal(to, expected)


def test_what_a_gpu_can_not_read_is_refused():
    w = weights()
    with pytest.raises(ValueError, match="expected pinned memory"):
        DifferentialCache(HostWeights(w), 1 << 20, "cuda")
    to = torch.zeros(9, 8, device="cuda")
    index = torch.zeros(50, dtype=torch.int32, device="cuda")
    with pytest.raises(RuntimeError, match="or in pinned host memory"):
        contextual_fetch(to, torch.zeros(50, 8), index, index[:9], index[:1])
