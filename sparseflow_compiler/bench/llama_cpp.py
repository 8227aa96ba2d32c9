"""llama.cpp beside ours: rows of its own benchmark, `llama-bench`."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparseflow.errors import ArgumentError

PEER = "llama.cpp"
_FIELDS = ("model_type", "model_size", "n_threads", "build_commit")


def llama_cpp_rows(
    binary: Path, files: Sequence[Path], contexts: Sequence[int], new_tokens: int, repeats: int, threads: int
) -> list[dict[str, Any]]:
    """Time greedy decoding of one sequence by llama.cpp on the CPU.

    Its steps include no choice of a token, so they are a little shorter than a whole step.

    Args:
        binary: `llama-bench`.
        files: models as GGUF files.
        contexts: tokens of the prompt, and in the cache before the first step.
        new_tokens: that are decoded.
        repeats: of each measurement; a row has their medians.
        threads: that compute.

    Returns:
        A row for each file and context, with the figures of `generate_rows` that llama-bench tells:
        `device_ms` a step, `tokens_s`, and `first_ms` for the prompt; and the `bytes` of the weights.

    Raises:
        ArgumentError: a file is missing, the program failed, or printed something else than its JSON.
    """
    for path in (binary, *files):
        if not path.is_file():
            raise ArgumentError(
                f"peer {PEER}", f"{path} is no file", "give the path of llama-bench or a GGUF"
            )
    common = ["-r", str(repeats), "-t", str(threads), "-ngl", "0", "-o", "json"]
    return [
        _row(
            _run(binary, ["-m", str(file), "-p", str(context), "-n", "0", *common]),
            _run(binary, ["-m", str(file), "-p", "0", "-n", str(new_tokens), "-d", str(context), *common]),
            file,
            context,
        )
        for file in files
        for context in contexts
    ]


def _row(prompt: dict[str, Any], steps: dict[str, Any], file: Path, context: int) -> dict[str, Any]:
    step = statistics.median(steps["samples_ns"]) / steps["n_gen"]
    return {
        "model": file.stem,
        "side": f"{PEER} {steps['build_commit']}",
        "format": steps["model_type"],
        "batch": 1,
        "context": context,
        "device_ms": round(step / 1e6, 3),
        "tokens_s": round(1e9 / step, 2),
        "first_ms": round(statistics.median(prompt["samples_ns"]) / 1e6, 2),
        "bytes": steps["model_size"],
        "threads": steps["n_threads"],
    }


def _run(binary: Path, options: list[str]) -> dict[str, Any]:
    """Run one test and return its record."""
    command = [str(binary), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ArgumentError(f"peer {PEER}", f"{binary} can't be run: {error}", "build it here") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it exited with {done.returncode}"])[-1]
        raise ArgumentError(f"peer {PEER}", f"{' '.join(command)} failed: {last}", "run it by hand")
    try:
        (record,) = json.loads(done.stdout)
        found: dict[str, Any] = {name: record[name] for name in (*_FIELDS, "n_gen", "samples_ns")}
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"peer {PEER}",
            f"{' '.join(command)} printed something else than one record of llama-bench: {error!r}",
            "use a llama-bench that knows -d and -o json (llama.cpp of 2025 or later)",
        ) from error
    return found
