"""How vLLM finds the method, and what happens without vLLM or with another version of it."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

from sparseflow.errors import UntestedVersionWarning
from sparseflow.integrations.vllm import engine_versions, registration

ROOT = Path(__file__).parents[4]


def test_the_entry_point_names_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["sparseflow"].partition(":")
    assert getattr(importlib.import_module(module), name) is registration.register


def test_the_package_needs_no_vllm() -> None:
    """Neither the package nor the module of the entry point imports it."""
    code = (
        "import sys, sparseflow, sparseflow.integrations.vllm.registration; assert 'vllm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_vllm_that_lacks_what_is_needed_is_told_so(monkeypatch, caplog) -> None:
    monkeypatch.setitem(sys.modules, "vllm.model_executor.layers.quantization", None)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="vllm.sparseflow"):
        registration.register()
    assert "sparseflow serves with vLLM 0.26 … 0.32" in caplog.text


@pytest.mark.parametrize(
    ("version", "outside"),
    [
        ("0.25.1", "older"),
        ("0.26.0", None),
        ("0.29.0rc1", None),
        ("0.32.7+cpu", None),
        ("0.33.0", "newer"),
        ("1.0", "newer"),
    ],
)
def test_versions_outside_of_the_tested_range_are_warned_of(version, outside) -> None:
    engine_versions.warn_if_untested.cache_clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        engine_versions.warn_if_untested(version)
        engine_versions.warn_if_untested(version)
    texts = [str(entry.message) for entry in found if entry.category is UntestedVersionWarning]
    assert [f"vLLM {version} is {outside} than" in text for text in texts] == ([True] if outside else [])
