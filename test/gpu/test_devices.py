"""Several GPUs in one process: plans, handles, streams and guards belong to the tensors' device."""

import threading

import pytest
import torch
from gpu_weights import TOLERANCE, error, inputs, linear, packed, pruned, reference

from sparseflow.runtime import gpu
from sparseflow.runtime.kernels import Choice

BF16 = torch.bfloat16

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def problem(index, dtype=BF16):
    """On device `index`, whichever is current."""
    with torch.cuda.device(index):
        weight = pruned(512, 1024, dtype, seed=index)
        return weight, packed(weight), inputs(100, 1024, dtype, seed=index)


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
def test_a_call_runs_on_the_device_of_its_tensors_and_leaves_the_current_one(dtype):
    for index in (1, 0):
        weight, device, x = problem(index, dtype)
        assert gpu.unusable(index) is None
        gpu.prepare(device, [100])
        assert gpu.path(device, 100) == "cusparselt, algorithm 0"
        for policy in ([], [1, 0], [1, Choice("skinny").code]):
            y = linear(x, device, policy=policy)
            assert (y.device.index, torch.cuda.current_device()) == (index, 0)
            assert error(y, reference(x, weight)) < TOLERANCE[dtype]


def test_a_plan_serves_one_device():
    gpu.reset()
    for index in (0, 1):
        gpu.prepare(problem(index)[1], [100])
    assert gpu.stats().plans == 2


def test_tensors_on_two_devices_are_refused():
    _, device, _ = problem(1)
    _, _, x = problem(0)
    with pytest.raises(RuntimeError, match=r"x must be .* on cuda:1, got .* on cuda:0"):
        linear(x, device)
    with pytest.raises(RuntimeError, match=r"bias must be .* on cuda:1, got .* on cuda:0"):
        linear(x.to("cuda:1"), device, bias=torch.zeros(512, dtype=BF16, device="cuda:0"))


def test_a_graph_of_the_second_device():
    weight, device, x = problem(1)
    gpu.prepare(device, [100])
    with torch.cuda.device(1):
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph: the stream it captures on stays on the device of its first use.
        with torch.cuda.stream(torch.cuda.Stream()):
            graph.capture_begin()
            y = linear(x, device)
            graph.capture_end()
        torch.cuda.synchronize()
        x.mul_(2)
        graph.replay()
        assert error(y, reference(x, weight)) < TOLERANCE[BF16]


def test_threads_on_both_devices_at_once():
    problems = [problem(index) for index in (0, 1)]
    for _, device, _ in problems:
        gpu.prepare(device, [100])
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    failures = []

    def work(thread):
        for call in range(200):
            weight, device, x = problems[(thread + call) % 2]
            y = linear(x, device)
            if call % 50 == 49 and not error(y, reference(x, weight)) < TOLERANCE[BF16]:
                failures.append((thread, call))

    threads = [threading.Thread(target=work, args=(t,)) for t in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_plans_of_both_devices_are_forgotten_together():
    for index in (0, 1):
        _, device, x = problem(index)
        linear(x, device)
    gpu.reset()
    assert gpu.stats().plans == 0
    weight, device, x = problem(1)
    assert error(linear(x, device), reference(x, weight)) < TOLERANCE[BF16]
