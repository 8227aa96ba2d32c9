import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # gpu_weights


def _reason() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    from sparseflow.runtime import gpu

    return gpu.unusable()


REASON = _reason()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "test/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if REASON:
                item.add_marker(pytest.mark.skip(reason=REASON))
