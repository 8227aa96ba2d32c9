import sys
from collections.abc import Iterator
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


@pytest.fixture(autouse=True, scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of the run: what a test has tuned quickly, the next ones find there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


class SkippedModule(pytest.Module):
    """A file of tests that is imported, so that its errors show, and skipped as a whole: it has hundreds."""

    def collect(self) -> list[pytest.Item]:
        assert self.obj is not None
        pytest.skip(REASON or "", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if not REASON or "test/gpu" not in module_path.as_posix():
        return None
    return SkippedModule.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "test/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
