"""Code in an interpreter of its own."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path

import warm_tools

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch_mlir", "transformers"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
"""


def python(code, cwd):
    """Run code in a fresh interpreter that has no part of this one's state."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True, timeout=300
    )


TORCH = ("torch", "torch._dynamo", "torch.export")
TRANSFORMERS = (
    *TORCH,
    "transformers",
    "transformers.modeling_utils",
    "transformers.models.llama.modeling_llama",
)
"""What a warm interpreter has imported: neither SparseFlow nor torch-mlir."""


def warm(modules=TORCH):
    """The words of a command that stands for ``python``: an interpreter that has imported these modules.

    The first call takes as long as they do, the first of all processes that run tests of one session; each
    command has a process of its own. For code that is about something else than these imports.
    """
    return [sys.executable, "-IS", warm_tools.__file__, _server(tuple(modules))]


@functools.cache
def _server(modules):
    """The address of a server; see `warm_tools`."""
    # What has torch already takes it along.
    python = warm(TORCH) if modules != TORCH and modules[: len(TORCH)] == TORCH else [sys.executable]
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if session is None:
        return warm_tools.start(list(modules), python)
    name = f"warm-tools-{session}-{zlib.crc32(repr(modules).encode()):x}"
    return warm_tools.shared(list(modules), python, os.path.join(tempfile.gettempdir(), name))


def warm_python(code, cwd, modules=TORCH):
    """`python` in an interpreter that has imported these modules, see `warm`."""
    words = [*warm(modules), "-c", textwrap.dedent(code)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=300)


@functools.cache
def warm_path():
    """A folder of programs that stand for ``python`` and ``sparseflow``, to go first in PATH; see `warm`."""
    command = warm(TRANSFORMERS)
    folder = Path(command[-1]).parent  # the server removes it
    script = str(Path(sys.executable).with_name("sparseflow"))
    for name, words in {"python": command, "sparseflow": [*command, script]}.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o755)
    return folder
