"""The process that measures on a GPU: it reads requests from stdin and writes messages to stdout.

    python -m sparseflow.runtime.tuning.child [--device INDEX] [--lift-refusals]

It exits with 0 at the end of its input, and with 3 when CUDA doesn't work in this process any more.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from typing import IO, Any

from sparseflow.runtime.tuning.protocol import Message, Ready, Request, encode

SPOILT = 3
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Measure the requested points; return the exit status."""
    channel = _claim_stdout()
    # Otherwise a hanging child would keep the GPU after the tuner was killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parser = argparse.ArgumentParser(prog="python -m sparseflow.runtime.tuning.child", description=__doc__)
    parser.add_argument("--device", type=int, default=0, help="index of the CUDA device")
    parser.add_argument(
        "--lift-refusals", action="store_true", help="try also what is known to end a process"
    )
    options = parser.parse_args()
    return _serve(channel, options.device, lift_refusals=options.lift_refusals)


def _claim_stdout() -> IO[str]:
    """Return stdout for messages alone, after redirecting what libraries print to stderr."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def _serve(channel: IO[str], device: int, *, lift_refusals: bool) -> int:
    import torch

    from sparseflow.runtime import gpu
    from sparseflow.runtime.tuning.measure_gpu import Bench
    from sparseflow.runtime.tuning.replay import Spoilt

    def say(message: Message) -> None:
        channel.write(encode(message))
        channel.flush()

    gpu.require(device)
    torch.ops.sparseflow.cusparselt_lift_refusals(lift_refusals)
    say(Ready(gpu.version()))
    bench = Bench(say)
    cuda: Any = torch.cuda  # torch's annotations are incomplete
    stream = cuda.Stream(device)  # the default stream can't be captured
    with torch.inference_mode(), cuda.device(device), cuda.stream(stream):
        for line in sys.stdin:
            try:
                bench.measure(Request.decode(line))
            except Spoilt as spoilt:
                print(spoilt, file=sys.stderr, flush=True)
                os._exit(SPOILT)  # destructors would wait for a device that never answers
    return 0


if __name__ == "__main__":
    sys.exit(main())
