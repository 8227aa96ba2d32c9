"""Configuration of lit: `lit -v test` from the checkout's root runs every .mlir test."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lit.formats

config: Any = globals()["config"]
lit_config: Any = globals()["lit_config"]


def tool(name: str) -> str:
    """The path of a program of the environment that lit runs in; without it no test means anything."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        lit_config.fatal(f"'{name}' is missing beside {sys.executable} and on PATH; `make env` installs it")
    return str(found)


def has_gpu() -> bool:
    """Whether a CUDA device answers."""
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


root = Path(__file__).parent
sys.path.insert(0, str(root))
import warm_tools  # noqa: E402 - a file beside this one

# The scripts themselves, which run in a process that has imported their modules.
modules = ["sparseflow.tools.opt", "sparseflow.tools.driver", "sparseflow.tools.passes_doc", "filecheck.main"]
warm = f"{sys.executable} -IS {warm_tools.__file__} {warm_tools.start(modules)}"

config.name = "sparseflow"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
config.excludes = ["unit", "gpu", "data"]
config.test_source_root = str(root)
config.test_exec_root = str(root.parent / "build" / "lit")
config.substitutions += [
    (r"\bsparseflow-opt\b", f"{warm} {tool('sparseflow-opt')}"),
    (r"\bFileCheck\b", f"{warm} {tool('filecheck')}"),
]
if importlib.util.find_spec("torch") is not None:
    config.available_features.add("torch")
if has_gpu():
    config.available_features.add("gpu")
