import threading

import pytest
import torch
from gpu_weights import TOLERANCE, error, inputs, linear, packed, pruned, reference

from sparseflow.runtime import gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("m", [1, 17, 128])
def test_a_captured_graph_follows_its_inputs(m, warm, dtype):
    weight = pruned(512, 1024, dtype)
    device = packed(weight)
    bias = inputs(1, 512, dtype, seed=5)[0]
    gpu.prepare(device, [m], bias=True, epilogue="relu")
    x = inputs(m, 1024, dtype)
    if warm:
        linear(x, device, bias, epilogue="relu")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = linear(x, device, bias, epilogue="relu")
    for seed in (7, 8):
        x.copy_(inputs(m, 1024, dtype, seed=seed))
        bias.copy_(inputs(1, 512, dtype, seed=seed + 1)[0])
        y.fill_(float("nan"))
        graph.replay()
        assert error(y, reference(x, weight, bias, epilogue="relu")) < TOLERANCE[dtype]
    assert gpu.stats().pinned > 0


def test_plans_are_built_while_a_graph_is_captured():
    device = packed(pruned(512, 1024, torch.float16))
    x = inputs(64, 1024, torch.float16)
    gpu.prepare(device, [64])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        linear(x, device)
        gpu.prepare(device, [304], wait=True)
        y = linear(x, device)
    graph.replay()
    assert error(y, reference(x, device.dense())) < TOLERANCE[torch.float16]


def test_an_unseen_m_is_right_at_once_and_sparse_later():
    weight = pruned(256, 768, torch.float16)
    device = packed(weight)
    x = inputs(77, 768, torch.float16)
    assert error(linear(x, device), reference(x, weight)) < TOLERANCE[torch.float16]
    torch.ops.sparseflow.plans_wait()
    hits = gpu.stats().hits
    assert error(linear(x, device), reference(x, weight)) < TOLERANCE[torch.float16]
    assert gpu.stats().hits == hits + 1


def test_eight_threads_on_four_streams_each():
    dtype, failures = torch.bfloat16, []
    weights = [pruned(512, 1024, dtype, seed=s) for s in range(4)]
    devices = [packed(w) for w in weights]
    rows = (1, 16, 100, 129)
    xs = [inputs(m, 1024, dtype, seed=m) for m in rows]
    biases = [inputs(1, 512, dtype, seed=s)[0] for s in range(4)]
    expected = [[reference(x, w, b) for w, b in zip(weights, biases, strict=True)] for x in xs]
    torch.cuda.synchronize()

    def work(thread):
        streams = [torch.cuda.Stream() for _ in range(4)]
        results = []
        for call in range(1000):
            i, j = (call + thread) % 4, (call // 4 + thread) % 4
            with torch.cuda.stream(streams[call % 4]):
                results.append((linear(xs[i], devices[j], biases[j]), i, j))
            if len(results) == 100:
                torch.cuda.synchronize()
                failures.extend(
                    (i, j) for y, i, j in results if not error(y, expected[i][j]) < TOLERANCE[dtype]
                )
                results.clear()

    threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_ten_thousand_calls_take_no_memory():
    device = packed(pruned(512, 1024, torch.bfloat16))
    x = inputs(100, 1024, torch.bfloat16)
    for _ in range(10):
        linear(x, device)
    torch.cuda.synchronize()
    plans, before, free = gpu.stats().plans, torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    for _ in range(10_000):
        linear(x, device)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.mem_get_info()[0] >= free - (2 << 20)
    assert gpu.stats().plans == plans


def test_a_full_cache_forgets_the_plan_used_longest_ago():
    gpu.reset()
    device = packed(pruned(512, 1024, torch.bfloat16))
    torch.ops.sparseflow.plans_limit(3)
    try:
        for m in (8, 16, 32, 48, 64, 8):
            x = inputs(m, 1024, torch.bfloat16)
            assert error(linear(x, device), reference(x, device.dense())) < TOLERANCE[torch.bfloat16]
        assert gpu.stats().plans == 3
        evicted = gpu.stats().evicted
        for m in (*range(80, 1600, 16), *range(80, 1600, 16)):  # enough for plans to be destroyed
            x = inputs(m, 1024, torch.bfloat16)
            assert error(linear(x, device), reference(x, device.dense())) < TOLERANCE[torch.bfloat16]
        assert gpu.stats().evicted >= evicted + 64
    finally:
        torch.ops.sparseflow.plans_limit(16384)


def test_after_a_reset_plans_are_built_anew():
    device = packed(pruned(512, 1024, torch.bfloat16))
    x = inputs(32, 1024, torch.bfloat16)
    linear(x, device)
    gpu.reset()
    assert gpu.stats().plans == 0
    assert error(linear(x, device), reference(x, device.dense())) < TOLERANCE[torch.bfloat16]
