"""Tests of the vLLM plugin: `make test-vllm` installs vLLM for CPUs; without it they are skipped."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WITHOUT_VLLM = ("test_registration.py", "test_ready_kernels.py")
REASON = "vLLM isn't installed: make test-vllm"


def has_vllm() -> bool:
    found = importlib.util.find_spec("vllm")
    return found is not None and found.origin is not None


if has_vllm():
    # Read by vLLM when it is imported: one process, a small cache, nothing from the network.
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents or item.path.name in WITHOUT_VLLM:
            continue
        item.add_marker(pytest.mark.vllm)
        if not has_vllm():
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="session", autouse=True)
def measured_here(tmp_path_factory):
    """vLLM's cache of compiled graphs, new for each run unless one is named."""
    os.environ.setdefault("VLLM_CACHE_ROOT", str(tmp_path_factory.mktemp("vllm-cache")))
