import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from isolated import warm

from sparseflow.errors import NativeLibraryError
from sparseflow.runtime import gpu
from sparseflow.runtime.gpu import library
from sparseflow.runtime.kernels import Choice

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


def names():
    source = (Path(__file__).parents[3] / "runtime/csrc/cuda/cusparselt.cpp").read_text()
    found = re.findall(r'Symbol\{"(\w+)"', source)
    assert len(found) > 15
    return found


@pytest.fixture
def fake(tmp_path):
    """Builds a library that has cuSPARSELt's functions, but for some, and a version."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")

    def build(version, without=()):
        functions = [
            f"int cusparseLt{n}() {{ return 0; }}" for n in names() if n not in (*without, "GetProperty")
        ]
        if "GetProperty" not in without:
            functions.append(
                "int cusparseLtGetProperty(int part, int* value) "
                f"{{ const int parts[] = {{{version}}}; *value = parts[part]; return 0; }}"
            )
        source, library = tmp_path / "fake.cpp", tmp_path / "libcusparseLt.so.0"
        source.write_text('extern "C" {\n' + "\n".join(functions) + "\n}")
        subprocess.run(["c++", "-shared", "-fPIC", "-o", library, source], check=True)
        return library

    return build


def test_a_file_that_is_no_library_is_a_reason(tmp_path):
    broken = tmp_path / "libcusparseLt.so.0"
    broken.write_bytes(b"not an ELF file")
    assert OPEN(str(broken)) == f"cuSPARSELt does not load: {broken} is not a library"
    assert OPEN(str(tmp_path)) == f"cuSPARSELt does not load: {tmp_path} is not a library"


def test_a_library_cut_short_is_a_reason_not_a_crash(fake):
    library = fake("0, 10, 0")
    library.write_bytes(library.read_bytes()[:3000])
    assert OPEN(str(library)).endswith(f"{library} is cut short: 3000 bytes are not all of it")


def test_a_library_for_another_processor_is_not_called_missing(fake):
    library = fake("0, 10, 0")
    content = bytearray(library.read_bytes())
    content[18:20] = (8).to_bytes(2, "little")  # e_machine: MIPS
    library.write_bytes(content)
    assert OPEN(str(library)).endswith(f"{library} is a library for another processor")


def test_another_library_is_a_reason_that_names_the_missing_function():
    native = next(path for path in torch.ops.loaded_libraries if "sparseflow" in path)
    assert "lacks cusparseLtInit" in OPEN(native)


@pytest.mark.parametrize("name", ["SpMMACompress2", "Matmul", "GetProperty"])
def test_a_library_without_one_of_the_functions_names_it(fake, name):
    assert OPEN(str(fake("0, 10, 0", without=(name,)))).endswith(
        f"is not a usable cuSPARSELt: it lacks cusparseLt{name}"
    )


@pytest.mark.parametrize(("parts", "version"), [("0, 7, 2", "0.7.2"), ("0, 5, 0", "0.5.0")])
def test_a_library_too_old_is_a_reason_that_names_both_versions(fake, parts, version):
    reason = OPEN(str(fake(parts)))
    assert reason.endswith(f"is cuSPARSELt {version}, too old: 0.8.0 or newer is needed")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_whole_library_is_no_use_without_cuda(fake):
    script = (
        "import sys, torch; from sparseflow.runtime import ops\n"
        "print(torch.ops.sparseflow.cusparselt_open(sys.argv[1]))\n"
        "try: torch.ops.sparseflow.cusparselt_version()\n"
        "except RuntimeError as error: print(str(error).splitlines()[0])\n"
    )
    result = subprocess.run(
        [*warm(), "-c", script, str(fake("0, 10, 0"))], capture_output=True, text=True, check=True
    )
    reason = "this torch was built without CUDA"
    assert result.stdout.splitlines() == [reason, f"cuSPARSELt: {reason}"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_without_a_device_everything_says_so():
    assert gpu.unusable() == gpu.unusable(3) == "this torch was built without CUDA"
    with pytest.raises(NativeLibraryError, match="built without CUDA"):
        gpu.require()


@pytest.fixture
def machine(monkeypatch):
    """Makes torch believe in a machine with one GPU, and in a library that opens."""

    def pretend(capability=(9, 0), init=lambda: None, opens=""):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        for name, value in {
            "init": init,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_name": lambda index: "NVIDIA Test",
            "get_device_capability": lambda index: capability,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.ops.sparseflow, "cusparselt_open", lambda path: opens)
        monkeypatch.setattr(torch.ops.sparseflow, "cuda_kernels_built", lambda: True)
        monkeypatch.setenv(library.VARIABLE, "/some/libcusparseLt.so.0")
        library._unusable.cache_clear()

    yield pretend
    library._unusable.cache_clear()


def test_no_driver_and_no_gpu_are_told_apart_in_torchs_words(machine):
    def fail(words):
        def init():
            raise RuntimeError(words)

        return init

    machine(init=fail("Found no NVIDIA driver on your system. Please check that you have\nan NVIDIA GPU."))
    assert gpu.unusable() == "no CUDA device is available: Found no NVIDIA driver on your system"
    machine(init=fail("No CUDA GPUs are available"))
    assert gpu.unusable() == "no CUDA device is available: No CUDA GPUs are available"


def test_a_gpu_too_old_or_not_there_is_a_reason(machine):
    machine(capability=(7, 5))
    assert gpu.unusable() == "NVIDIA Test is sm_75, and tensor cores for 2:4 begin with sm_80"
    assert gpu.unusable(1) == "there is no cuda:1, the CUDA devices are 1 in number"
    assert gpu.unusable(torch.device("cpu")) == "cpu is not a CUDA device"


def test_a_library_that_fails_on_the_gpu_is_a_reason_and_is_asked_again(machine, monkeypatch):
    def fails(index):
        raise RuntimeError("cuSPARSELt 0.10.0: cusparseLtInit failed: architecture mismatch\nmore")

    machine(capability=(12, 1))
    monkeypatch.setattr(library, "_foreign_layout", fails)
    failure = "cuSPARSELt 0.10.0: cusparseLtInit failed: architecture mismatch"
    assert gpu.unusable() == f"cuSPARSELt does not work on NVIDIA Test: {failure}"
    monkeypatch.setattr(library, "_foreign_layout", lambda index: None)
    assert gpu.unusable() is None


def test_a_library_that_does_not_open_comes_with_the_way_out(machine):
    machine(opens="/some/libcusparseLt.so.0 is too old")
    reason = gpu.unusable()
    assert reason is not None
    assert reason.startswith("/some/libcusparseLt.so.0 is too old; pip install")


def test_no_library_at_all_comes_with_the_way_out(machine, monkeypatch):
    machine()
    monkeypatch.delenv(library.VARIABLE)
    monkeypatch.setattr(library, "WHEELS", "no_such_wheel.cusparselt")
    reason = gpu.unusable()
    assert reason is not None
    assert reason.startswith("cuSPARSELt is not installed; pip install")


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
def test_a_code_holds_kernel_algorithm_and_split_k(algorithm, split_k, code):
    assert Choice("cusparselt", algorithm, split_k).code == code
