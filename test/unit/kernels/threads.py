"""The CPU's operators called from several threads at once: the bits must be those of one thread.

tools/sanitize.sh runs it under ThreadSanitizer, `test_threads.py` without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparseflow.runtime import native
from sparseflow.runtime.kernels import Choice

THREADS, ROUNDS = 6, 3
DENSE = [1, Choice("dense").code]
Job = Callable[[], Tensor]


def products(dtype: torch.dtype, n: int, k: int) -> Iterator[Job]:
    """Sparse, decompressed, gated and fp8 products of a weight."""
    ops = torch.ops.sparseflow
    weight = ops.prune_2_4(torch.randn(n, k).to(dtype))
    values, positions = ops.pack_2_4(weight)
    bias = torch.randn(n).to(dtype)
    for rows in (0, 1, 5, 40):
        x = torch.randn(rows, k).to(dtype)
        for policy in ([], DENSE):
            yield lambda x=x, policy=policy: ops.linear(x, values, positions, bias, None, k, "gelu", policy)
        if n % 2 == 0:
            yield lambda x=x: ops.linear(x, values, positions, bias, None, k, "silu_gated", [])
    yield lambda: ops.unpack_2_4(values, positions, k)
    yield lambda: torch.cat([part.flatten().float() for part in ops.pack_2_4(weight)])


def contextual(neurons: int, hidden: int) -> Iterator[Job]:
    """Selecting neurons and computing with them."""
    ops = torch.ops.sparseflow
    up, down_t = torch.randn(neurons, hidden), torch.randn(neurons, hidden)
    a, b = torch.randn(3, hidden), torch.randn(neurons, 3)
    for rows in (0, 1, 9):
        x = torch.randn(rows, hidden)
        scores = ops.contextual_scores(x, a, b, None)
        for rule, parameter in (("threshold", 0.0), ("top_k", 3.0), ("statistical", 0.5)):
            yield lambda s=scores, r=rule, p=parameter: ops.contextual_select(s, r, p)[1]
            yield lambda x=x, r=rule, p=parameter: ops.contextual_mlp_predicted(
                *(x, None, up, down_t, *(None,) * 6, a, b, *(None,) * 3, r, p, "relu")
            )


def jobs() -> list[Job]:
    """Of every kind, odd sizes among them."""
    torch.manual_seed(0)
    found: list[Job] = []
    for n, k in ((1, 1), (7, 3), (16, 35), (66, 130), (33, 1001)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            found += products(dtype, n, k)
    for neurons, hidden in ((1, 1), (64, 33), (301, 48)):
        found += contextual(neurons, hidden)
    return found


def run() -> None:
    """Do every job in every thread, each in its own order.

    Raises:
        AssertionError: a thread got something else than one alone gets, or an error.
    """
    native.load()
    todo = jobs()
    alone = [job() for job in todo]
    wrong: list[str] = []
    start = threading.Barrier(THREADS)

    def work(thread: int) -> None:
        start.wait()
        for turn in range(ROUNDS * len(todo)):
            index = (turn * (2 * thread + 1) + thread * 17) % len(todo)
            try:
                if not torch.equal(todo[index](), alone[index]):
                    wrong.append(f"job {index} in thread {thread}")
            except Exception as error:
                wrong.append(f"job {index} in thread {thread}: {error}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


if __name__ == "__main__":
    run()
