"""Start vLLM's OpenAI-compatible server in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparseflow.errors import ArgumentError, MissingDependencyError
from sparseflow.support.extras import install

NAME = "model"
"""Under which a server serves its model."""

_CACHE = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        port: on 127.0.0.1.
        start_s: seconds from the start of its process to its first answer.
        kv_tokens: tokens whose keys and values its cache holds; None if it doesn't say.
    """

    port: int
    start_s: float
    kv_tokens: int | None


def require_vllm(*, plugin: bool) -> None:
    """Refuse to start servers without vLLM, or without our entry point where a server needs it.

    Raises:
        MissingDependencyError: vLLM isn't installed.
        ArgumentError: vLLM wouldn't find our method.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError("bench serve", "needs vLLM", install("vllm"))
    found = importlib.metadata.entry_points(group="vllm.general_plugins")
    if plugin and "sparseflow" not in {entry.name for entry in found}:
        raise ArgumentError(
            "bench serve",
            "vLLM finds no entry point of sparseflow: the package is on the path, but isn't installed",
            "pip install sparseflow, or -e for a checkout",
        )


class Server:
    """vLLM's server over a model, from its start until the block ends.

        with Server(model, options, log) as server:
            running = server.wait(600)

    Args:
        model: its folder.
        options: further ones of ``vllm serve``.
        log: file for what it prints.
        gpu: the only one that it sees, as CUDA_VISIBLE_DEVICES names it; None: all that this process sees.
    """

    def __init__(self, model: Path, options: Sequence[str], log: Path, gpu: str | None = None) -> None:
        self._log, self._port, self._began = log, _free_port(), time.monotonic()
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
        command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(self._port), *options]
        places = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "VLLM_NO_USAGE_STATS": "1", **places},
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait(self, seconds: float) -> Running:
        """Return once it answers.

        Args:
            seconds: from its start until its first answer, at most.

        Raises:
            ArgumentError: it ended, or didn't answer in time; the error has the end of the log.
        """
        _wait(self._process, self._port, self._log, self._began + seconds)
        return Running(self._port, time.monotonic() - self._began, _kv_tokens(self._port))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, end: float) -> None:
    begun = time.monotonic()
    while time.monotonic() < end and process.poll() is None:
        try:
            _get(port, "health")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    ended = process.poll() is not None
    reason = f"it ended with {process.returncode}" if ended else f"no answer in {end - begun:.0f} s"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise ArgumentError("bench serve: vllm serve", f"{reason}; its log ends:\n{tail}", "see the whole: --log")


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def _kv_tokens(port: int) -> int | None:
    """Return the size of a server's cache from its metrics."""
    found = _CACHE.search(_get(port, "metrics"))
    labels = dict(_LABEL.findall(found[1])) if found else {}
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdigit() and size.isdigit() else None
