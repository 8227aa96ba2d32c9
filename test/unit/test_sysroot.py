"""Libraries without code that hold glibc's symbols up to a version: what wheels are linked with."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sysroot():
    spec = importlib.util.spec_from_file_location("sysroot", ROOT / "tools" / "sysroot.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def text(word):
    return word.encode() + b"\0"


LISTS = (
    bytes([2]) + text("c") + text("pthread")
    + bytes([3, 2, 2, 5, 2, 28, 0, 2, 34, 0])  # versions
    + bytes([2]) + text("arm-linux-gnueabi") + text("x86_64-linux-gnu")
    + (3).to_bytes(2, "little")
    + text("create") + bytes([2, 1, 0x80])  # in pthread, of 2.2.5
    + bytes([2, 0x80, 0x82])  # and in c, of 2.34: the last of `create`
    + text("other") + bytes([1, 0x80, 0x80])  # of another machine
    + (1).to_bytes(2, "little")
    + text("environ") + bytes([2, 0x88, 0x01, 0x80, 0, 0x81])  # 136 bytes, of 2.2.5 and 2.28
)  # fmt: skip


def test_each_symbol_has_its_latest_version_that_the_glibc_has(sysroot):
    lists = sysroot.read_abilists(LISTS)
    assert lists.up_to("c", (2, 28, 0)) == [sysroot.Symbol("GLIBC_2.28", "environ", 136)]
    assert lists.up_to("c", (2, 17, 0)) == [sysroot.Symbol("GLIBC_2.2.5", "environ", 136)]
    assert lists.up_to("pthread", (2, 28, 0)) == [sysroot.Symbol("GLIBC_2.2.5", "create")]
    assert sysroot.Symbol("GLIBC_2.34", "create") in lists.up_to("c", (2, 36, 0))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_what_links_with_a_stub_asks_for_its_versions(sysroot, tmp_path):
    symbols = [
        sysroot.Symbol("GLIBC_2.2.5", "create"),
        sysroot.Symbol("GLIBC_2.2.5", "once", 8, True),
        sysroot.Symbol("GLIBC_2.28", "environ", 136),
    ]
    sysroot.make_stub(tmp_path, "libc.so.6", symbols, "gcc")
    source = tmp_path / "user.c"
    source.write_text(
        "extern void create(void); extern long environ[]; extern __thread long once;\n"
        "long use(void) { create(); return environ[1] + once; }\n"
    )
    made = tmp_path / "libuser.so"
    link = [
        "gcc",
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-ftls-model=initial-exec",
        "-o",
        made,
        source,
        tmp_path / "libc.so.6",
    ]
    subprocess.run(link, check=True)
    asked = subprocess.run(["objdump", "-T", made], check=True, capture_output=True, text=True).stdout
    found = {line.split()[-1]: line.split()[-2].strip("()") for line in asked.splitlines() if "GLIBC" in line}
    assert found == {"create": "GLIBC_2.2.5", "once": "GLIBC_2.2.5", "environ": "GLIBC_2.28"}


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_of_libstdcxx_only_what_is_old_enough_is_kept(sysroot):
    found = subprocess.run(
        ["gcc", "-print-file-name=libstdc++.so.6"], capture_output=True, text=True, check=True
    )
    symbols = sysroot.read_libstdcxx(Path(found.stdout.strip()).resolve(), (3, 4, 24))
    versions = {symbol.version for symbol in symbols}
    assert "GLIBCXX_3.4.21" in versions
    assert not versions & {"GLIBCXX_3.4.26", "GLIBCXX_3.4.30", "CXXABI_1.3.13"}
    assert any(symbol.of_thread and symbol.name == "_ZSt11__once_call" for symbol in symbols)
