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


def test_a_captured_graph_keeps_the_bias_it_was_captured_with():
    weight = pruned(512, 1024, torch.bfloat16)
    device, x = packed(weight), inputs(32, 1024, torch.bfloat16)
    first, second = (inputs(1, 512, torch.bfloat16, seed=s)[0] for s in (5, 6))
    gpu.prepare(device, [32], bias=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = linear(x, device, first)
    assert error(linear(x, device, second), reference(x, weight, second)) < TOLERANCE[torch.bfloat16]
    graph.replay()
    assert error(y, reference(x, weight, first)) < TOLERANCE[torch.bfloat16]


def test_a_plan_that_lacks_does_not_break_a_capture():
    gpu.reset()
    weight = pruned(512, 1024, torch.bfloat16)
    device, x = packed(weight), inputs(56, 1024, torch.bfloat16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = linear(x, device)
    torch.ops.sparseflow.plans_wait()
    x.copy_(inputs(56, 1024, torch.bfloat16, seed=9))
    graph.replay()
    assert error(y, reference(x, weight)) < TOLERANCE[torch.bfloat16]
    assert (gpu.stats().plans, gpu.failures()) == (1, "")


@pytest.fixture
def small_cache():
    gpu.reset()
    torch.ops.sparseflow.plans_limit(3)
    yield
    torch.ops.sparseflow.plans_limit(16384)
    gpu.reset()


def test_a_graph_outlives_the_eviction_of_every_other_plan(small_cache):
    weight = pruned(512, 1024, torch.bfloat16)
    device, x = packed(weight), inputs(24, 1024, torch.bfloat16)
    gpu.prepare(device, [8, 24])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = linear(x, device)
    gpu.prepare(device, range(64, 1600, 16))
    assert gpu.stats().evicted > 0
    graph.replay()
    assert error(y, reference(x, weight)) < TOLERANCE[torch.bfloat16]


def test_plans_come_and_go_in_one_thread_while_another_captures(small_cache):
    weight = pruned(512, 1024, torch.bfloat16)
    device, x = packed(weight), inputs(24, 1024, torch.bfloat16)
    gpu.prepare(device, [24])
    expected, evicted = reference(x, weight), gpu.stats().evicted
    xs = [inputs(m, 1024, torch.bfloat16) for m in range(64, 320, 16)]
    results, failures, stop = [], [], threading.Event()

    def churn():
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(1000):
                    results[:] = [(x, linear(x, device)) for x in xs]
                    torch.cuda.current_stream().synchronize()
                    if stop.is_set():
                        return
        except Exception as failure:
            failures.append(failure)

    torch.cuda.synchronize()
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                y = linear(x, device)
            graph.replay()
            assert error(y, expected) < TOLERANCE[torch.bfloat16]
    finally:
        stop.set()
        thread.join()
    torch.cuda.synchronize()
    assert not failures
    assert gpu.stats().evicted > evicted
    assert results
    assert all(error(y, reference(x, weight)) < TOLERANCE[torch.bfloat16] for x, y in results)


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


@pytest.mark.parametrize(
    ("prepared", "m", "stand_in"),
    [
        ([1280], 1000, "cusparselt, algorithm 0, for 1280 rows for now: the plan for fewer is being built"),
        ([64], 20, "cusparselt, algorithm 0, for 64 rows for now: the plan for fewer is being built"),
        ([1280], 100, "skinny for now: its plan is being built"),
        ([1280], 700, "dense for now: its plan is being built"),
    ],
)
def test_what_is_loaded_serves_while_a_plan_is_built(prepared, m, stand_in):
    gpu.reset()
    weight = pruned(256, 768, torch.float16)
    device, x = packed(weight), inputs(m, 768, torch.float16)
    bias, residual = inputs(1, 256, torch.float16, seed=2)[0], inputs(m, 256, torch.float16, seed=3)
    how = {"bias": True, "residual": True, "epilogue": "silu"}
    gpu.prepare(device, prepared, **how)
    expected = reference(x, weight, bias, residual, "silu")
    y = linear(x, device, bias, residual, "silu")
    assert gpu.path(device, m, **how) in (stand_in, "cusparselt, algorithm 0")
    assert error(y, expected) < 2 * TOLERANCE[torch.float16]
    torch.ops.sparseflow.plans_wait()
    assert gpu.path(device, m, **how) == "cusparselt, algorithm 0"
    assert error(linear(x, device, bias, residual, "silu"), expected) < 2 * TOLERANCE[torch.float16]


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
    gpu.prepare(device, [100])
    for _ in range(10):
        linear(x, device)
    torch.cuda.synchronize()
    plans, before, lost = gpu.stats().plans, torch.cuda.memory_allocated(), []
    for _ in range(3):  # other processes take memory too, but not each time as a leak would
        free = torch.cuda.mem_get_info()[0]
        for _ in range(10_000):
            linear(x, device)
        torch.cuda.synchronize()
        lost.append(free - torch.cuda.mem_get_info()[0])
    assert torch.cuda.memory_allocated() == before
    assert min(lost) <= 2 << 20
    assert gpu.stats().plans == plans


def test_a_full_cache_forgets_the_plan_used_longest_ago(small_cache):
    device = packed(pruned(512, 1024, torch.bfloat16))
    evicted = gpu.stats().evicted

    def run(m):
        x = inputs(m, 1024, torch.bfloat16)
        assert error(linear(x, device), reference(x, device.dense())) < TOLERANCE[torch.bfloat16]
        torch.ops.sparseflow.plans_wait()

    for m in (8, 16, 32, 48, 64, 8):
        run(m)
    assert gpu.stats().plans == 3
    for m in (*range(80, 1600, 16), *range(80, 1600, 16)):
        run(m)
    assert gpu.stats().plans == 3
    assert gpu.stats().evicted >= evicted + 60


def test_after_a_reset_plans_are_built_anew():
    device = packed(pruned(512, 1024, torch.bfloat16))
    x = inputs(32, 1024, torch.bfloat16)
    linear(x, device)
    gpu.reset()
    assert gpu.stats().plans == 0
    gpu.prepare(device, [32])
    assert gpu.path(device, 32) == "cusparselt, algorithm 0"
    assert error(linear(x, device), reference(x, device.dense())) < TOLERANCE[torch.bfloat16]
