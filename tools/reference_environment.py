"""The page of environment variables; which there are is read from the sources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from docstrings import table

ROOT = Path(__file__).parents[1]
_ROOMS = ("sparseflow_compiler", "runtime", "passes", "lowering")
_READ = re.compile(
    r"""(?:environ(?:\.get\(|\[|)|getenv\(|^[A-Z_]+\ =|not\ in\ os\.environ)\W*"(SPARSEFLOW_[A-Z_]+)\"""",
    re.VERBOSE | re.MULTILINE,
)
_HEAD = """# Environment variables

<!-- Made by `make docs`, which finds the variables in the sources; `make check` compares. -->"""
_TAIL = """Of others' variables SparseFlow heeds `OMP_NUM_THREADS` (threads of CPU kernels, through torch),
`CUDA_VISIBLE_DEVICES`, `TORCH_LOGS` and `TRANSFORMERS_VERBOSITY` (where set, these libraries' messages are
left alone)."""

ABOUT: Mapping[str, str] = {
    "SPARSEFLOW_CACHE_DIR": "The folder of measured tables; by default the user's cache folder.",
    "SPARSEFLOW_COMMIT": "The commit that results of benchmarks name, where the files are without their "
    "history.",
    "SPARSEFLOW_CPU_ISA": "The instruction set of the CPU kernels, if a lower one than the machine's is "
    "wanted: `plain`, `avx2`, `avx512`, `avx512bf16` or `amx`.",
    "SPARSEFLOW_CUSPARSELT": "The path of libcusparseLt.so.0; by default that of NVIDIA's wheel. Set it "
    "before the library is first used.",
    "SPARSEFLOW_LIBRARY": "The path of another build of the native library, such as one with sanitizers.",
}
"""What each variable does; a variable of the sources that lacks a line is an error."""


def page() -> str:
    """Return the contents of docs/reference/environment.md.

    Raises:
        KeyError: the sources read a variable that `ABOUT` doesn't describe, or the reverse.
    """
    found = variables()
    if unlike := set(found) ^ set(ABOUT):
        raise KeyError(
            f"tools/reference_environment.py and the sources differ in {', '.join(sorted(unlike))}"
        )
    rows = [[f"`{name}`", ABOUT[name], f"`{place}`"] for name, place in sorted(found.items())]
    return "\n\n".join([_HEAD, table(["variable", "", "read in"], rows), _TAIL]) + "\n"


def variables() -> dict[str, str]:
    """Return the variables that the sources read, each with the first file that does."""
    found: dict[str, str] = {}
    for room in _ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"}:
                for name in _READ.findall(path.read_text(encoding="utf-8")):
                    found.setdefault(name, str(path.relative_to(ROOT)))
    return found
