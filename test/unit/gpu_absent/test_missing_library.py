import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sparseflow.errors import NativeLibraryError
from sparseflow.runtime import gpu
from sparseflow.runtime.gpu import library

OPEN = torch.ops.sparseflow.cusparselt_open

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("libcusparseLt.so.0", "not an absolute path: libcusparseLt.so.0"),
        ("/nowhere/libcusparseLt.so.0", "does not load: /nowhere/libcusparseLt.so.0"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_a_reason_not_a_crash(path, reason):
    assert reason in OPEN(path)


def test_a_file_that_is_no_library_is_a_reason(tmp_path):
    fake = tmp_path / "libcusparseLt.so.0"
    fake.write_bytes(b"not an ELF file")
    assert "does not load" in OPEN(str(fake))


def test_another_library_is_a_reason_that_names_the_missing_function():
    torch_library = torch.ops.loaded_libraries
    native = next(path for path in torch_library if "sparseflow" in path)
    assert "lacks cusparseLtInit" in OPEN(native)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_library_too_old_is_a_reason_that_names_both_versions(tmp_path):
    source = (Path(__file__).parents[3] / "runtime/csrc/cuda/cusparselt.cpp").read_text()
    names = re.findall(r'Symbol\{"(\w+)"', source)
    assert len(names) > 15
    functions = [f"int cusparseLt{name}() {{ return 0; }}" for name in names if name != "GetProperty"]
    version = "int cusparseLtGetProperty(int part, int* value) { *value = (int[]){0, 7, 2}[part]; return 0; }"
    (tmp_path / "old.c").write_text("\n".join([*functions, version]))
    library = tmp_path / "libcusparseLt.so.0"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "old.c"], check=True)
    assert OPEN(str(library)).endswith("is cuSPARSELt 0.7.2, too old: 0.8.0 or newer is needed")


def test_without_a_device_everything_says_so():
    assert gpu.unusable() == "no CUDA device is available"
    with pytest.raises(NativeLibraryError, match="no CUDA device"):
        gpu.require()


def test_the_plan_cache_answers_without_a_device():
    assert gpu.stats() == gpu.PlanStats(0, 0, 0, 0, 0, 0, 0)
    gpu.reset()


def test_the_version_of_a_missing_library_is_an_error_with_the_reason():
    with pytest.raises(RuntimeError, match="cuSPARSELt: "):
        torch.ops.sparseflow.cusparselt_version()


def test_the_variable_comes_before_the_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "mine.so"))
    assert library.candidate() == tmp_path / "mine.so"
    monkeypatch.delenv(library.VARIABLE)
    monkeypatch.setattr(library, "WHEELS", "no_such_wheel.cusparselt")
    assert library.candidate() is None


@pytest.mark.parametrize(
    ("algorithm", "split_k", "code"), [(0, 0, 2), (20, 0, 2 | 20 << 8), (51, -1, 2 | 51 << 8 | 255 << 24)]
)
def test_a_policy_code_holds_backend_algorithm_and_split_k(algorithm, split_k, code):
    assert gpu.policy_code(algorithm, split_k) == code
