"""What all tests share: nothing that only costs time in small models, and long files run first."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import pytest

LONG = (
    *("fuzz/test_compile.py", "unit/api/test_decoding.py", "unit/api/test_transformers.py"),
    *("unit/api/test_generation.py", "unit/integrations/test_peft.py", "unit/docs/test_code_blocks.py"),
    *("unit/benchmarks/test_default_script.py", "unit/cli/test_quiet.py", "unit/test_extras.py"),
    *("unit/integrations/torch/test_eager_graphs.py", "unit/integrations/torch/test_torch_compile.py"),
    *("unit/api/test_one_rule.py", "unit/api/test_head.py", "unit/passes/test_form_decode_attention.py"),
    *("unit/api/test_ambient.py", "unit/docs/test_notebook.py", "unit/api/test_inner.py"),
    *("unit/runtime/test_ops.py", "fuzz/test_fuzz.py"),
)
"""Files that take a core for half a minute and more, the longest first."""


# Collections of what is being imported took a fifth of the imports.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: one that begins last leaves the other processes without work.

    pytest-xdist keeps this order with ``--no-loadscope-reorder``; else it begins with files of many tests.
    """
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """Prepare a process that runs tests; the one that deals them out collects none and does without torch."""
    import torch._dynamo.config

    # torch keeps what an operation on fake tensors gave, for equal ones later. That pays from about five
    # equal layers on; models of tests have two at most, and are traced a fifth to a third faster without.
    # Processes that tests start have it.
    torch._dynamo.config.fake_tensor_cache_enabled = False
    # pytest listens to every logger that doesn't propagate, and for whoever listens to this one torch writes
    # out each shape, guard and graph of a compilation.
    trace = logging.getLogger("torch.__trace")
    if "TORCH_TRACE" not in os.environ:
        trace.propagate = True
        trace.handlers.clear()
    # Collections leave imported modules out: these took a tenth of the suite's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    gc.enable()
