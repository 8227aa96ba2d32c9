"""Lay out the headers and libraries of an older glibc, to compile for it with this machine's gcc.

Usage: sysroot.py [--glibc 2.28] [--libstdcxx 3.4.24] FOLDER

The headers and the lists of glibc's symbols are those of the package `ziglang`, which must be installed. From
the lists this makes libraries without code that hold every symbol in its version up to the one named: what
links with them runs on every Linux with that glibc or a later one. C++ has its headers from gcc, and its
symbols from gcc's libstdc++.so up to the version named; what is younger is linked from libstdc++.a, as it is
by the toolsets of RHEL, from which the manylinux images are made.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TRIPLE = "x86_64-linux-gnu"
HEADERS = ("any-linux-any", "x86-linux-any", "generic-glibc", "x86-linux-gnu")
"""Folders of zig's headers, each over the ones before."""
SONAMES = {"c": 6, "m": 6, "ld": 2, "pthread": 0, "dl": 2, "rt": 1, "resolv": 2, "util": 1}
LOADER = "ld-linux-x86-64.so.2"


@dataclass(frozen=True, order=True)
class Symbol:
    """A symbol of a shared library.

    Attributes:
        version: the name of its version, as GLIBC_2.2.5.
        name: the mangled name.
        size: bytes, where it is an object; 0 for a function.
        of_thread: each thread has its own.
    """

    version: str
    name: str
    size: int = 0
    of_thread: bool = False


@dataclass
class Reader:
    """A cursor over bytes."""

    data: bytes
    at: int = 0

    def byte(self) -> int:
        """Take one byte."""
        self.at += 1
        return self.data[self.at - 1]

    def short(self) -> int:
        """Take two bytes, little-endian."""
        return self.byte() | self.byte() << 8

    def text(self) -> str:
        """Take a string up to its null byte."""
        end = self.data.index(0, self.at)
        taken, self.at = self.data[self.at : end], end + 1
        return taken.decode()

    def leb(self) -> int:
        """Take an unsigned LEB128."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


@dataclass
class SymbolLists:
    """What a glibc exports, by library and symbol.

    Attributes:
        versions: every version of glibc, ascending.
        exported: of each library, the versions that each symbol has in it and, of an object, its size.
    """

    versions: list[tuple[int, ...]] = field(default_factory=list)
    exported: dict[str, dict[str, list[tuple[tuple[int, ...], int]]]] = field(default_factory=dict)

    def up_to(self, library: str, glibc: tuple[int, ...]) -> list[Symbol]:
        """Return the symbols of a library, each in its latest version that `glibc` has."""
        latest = []
        for name, versions in self.exported[library].items():
            fitting = [entry for entry in versions if entry[0] <= glibc]
            if fitting:
                version, size = max(fitting)
                text = ".".join(map(str, version if version[2] else version[:2]))
                latest.append(Symbol(f"GLIBC_{text}", name, size))
        return sorted(latest)


def read_abilists(data: bytes, target: str = TRIPLE) -> SymbolLists:
    """Read zig's file `abilists` for one target; its format is told in ziglang/libc-abi-tools."""
    reader = Reader(data)
    libraries = [reader.text() for _ in range(reader.byte())]
    versions = [(reader.byte(), reader.byte(), reader.byte()) for _ in range(reader.byte())]
    targets = [reader.text() for _ in range(reader.byte())]
    lists = SymbolLists(list(versions), {library: {} for library in libraries})
    for sized in (False, True):
        for name, of_targets, size, library, numbers in _inclusions(reader, sized):
            if of_targets >> targets.index(target) & 1:
                entries = lists.exported[libraries[library]].setdefault(name, [])
                entries.extend((versions[number], size) for number in numbers)
    return lists


def _inclusions(reader: Reader, sized: bool) -> Iterator[tuple[str, int, int, int, list[int]]]:
    """Yield symbol, set of targets, size, library and versions; a name stands before its first only."""
    name = ""
    for _ in range(reader.short()):
        name = name or reader.text()
        targets = reader.leb()
        size = reader.leb() if sized else 0
        library = reader.byte()
        numbers = [reader.byte()]
        while numbers[-1] < 128:
            numbers.append(reader.byte())
        yield name, targets, size, library & 127, [number & 127 for number in numbers]
        if library & 128:
            name = ""


def read_libstdcxx(path: Path, newest: tuple[int, ...]) -> list[Symbol]:
    """Return the symbols of a libstdc++.so.6 up to a version of GLIBCXX, and CXXABI's that are as old.

    Raises:
        subprocess.CalledProcessError: objdump can't read the file.
    """
    listing = subprocess.run(["objdump", "-T", path], check=True, capture_output=True, text=True).stdout
    symbols = []
    for line in listing.splitlines():
        # 00000000001d1b20 g    DO .data.rel.ro  0000000000000028  GLIBCXX_3.4.21 _ZTV…
        found = re.match(
            r"[0-9a-f]+ .{6}([FO ]) (\.\S+)\s+([0-9a-f]+)\s+((?:GLIBCXX|CXXABI)_([\d.]+))\s+(\S+)$", line
        )
        if found:
            kind, section, size, version, numbers, name = found.groups()
            of_thread = section in (".tbss", ".tdata")
            # GLIBCXX_3.4.24 and CXXABI_1.3.11 are of gcc 7 and 8.
            limit = newest if version.startswith("GLIBCXX") else (1, 3, 11)
            if tuple(map(int, numbers.split("."))) <= limit:
                symbols.append(
                    Symbol(version, name, int(size, 16) if kind == "O" or of_thread else 0, of_thread)
                )
    return sorted(symbols)


def stub_source(symbols: list[Symbol]) -> str:
    """Return the assembly of a library that defines the symbols, without what they do."""
    lines = []
    for number, symbol in enumerate(symbols):
        own = f"stub_{number}"
        kind, section = ("object", ".data") if symbol.size else ("function", ".text")
        if symbol.of_thread:
            kind, section = "tls_object", '.section .tbss,"awT",@nobits'
        lines += [
            section,
            f".globl {own}",
            f".type {own}, %{kind}",
            f".size {own}, {symbol.size or 1}",
            f"{own}: .zero {symbol.size or 1}",
            f".symver {own}, {symbol.name}@@{symbol.version}, remove",
        ]
    return "\n".join([*lines, '.section .note.GNU-stack,"",@progbits', ""])


def version_script(symbols: list[Symbol]) -> str:
    """Return the linker's script that names the versions."""
    versions = sorted({symbol.version for symbol in symbols})
    return "".join(f"{version} {{ }};\n" for version in versions)


def make_stub(folder: Path, soname: str, symbols: list[Symbol], gcc: str) -> None:
    """Make a library of the name with the symbols in a folder."""
    source, script = folder / f"{soname}.s", folder / f"{soname}.map"
    source.write_text(stub_source(symbols))
    script.write_text(version_script(symbols))
    link = f"-Wl,-soname,{soname},--version-script,{script}"
    subprocess.run([gcc, "-shared", "-nostdlib", link, "-o", folder / soname, source], check=True)
    source.unlink()
    script.unlink()


def copy_headers(zig: Path, folder: Path, minor: int) -> None:
    """Lay zig's headers of glibc and Linux in a folder, for glibc 2.`minor`."""
    for part in HEADERS:
        shutil.copytree(zig / "libc" / "include" / part, folder, dirs_exist_ok=True)
    features = folder / "features.h"
    text = features.read_text()
    # zig takes it from the command line.
    if "#define\t__GLIBC_MINOR__" not in text:
        features.write_text(f"#ifndef __GLIBC_MINOR__\n#define __GLIBC_MINOR__ {minor}\n#endif\n{text}")
    if minor < 32:
        (folder / "sys" / "single_threaded.h").unlink()


def make_sysroot(
    folder: Path, zig: Path, glibc: tuple[int, ...], libstdcxx: tuple[int, ...], gcc: str
) -> None:
    """Make the folder that `gcc --sysroot` takes; one that stands there is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    include, libraries = folder / "usr" / "include", folder / "usr" / "lib"
    libraries.mkdir(parents=True)
    (folder / "lib64").symlink_to("usr/lib")
    (folder / "usr" / "lib64").symlink_to("lib")
    copy_headers(zig, include, glibc[1])
    lists = read_abilists((zig / "libc" / "glibc" / "abilists").read_bytes())
    for library, number in SONAMES.items():
        soname = LOADER if library == "ld" else f"lib{library}.so.{number}"
        make_stub(libraries, soname, lists.up_to(library, glibc), gcc)
        if library not in ("c", "ld"):
            (libraries / f"lib{library}.so").symlink_to(soname)
    # What glibc links statically, and the start of a library, are this machine's: neither names a version.
    for name in ("libc_nonshared.a", "crti.o", "crtn.o", "Scrt1.o", "crt1.o"):
        shutil.copy(_gcc_file(gcc, name), libraries)
    (libraries / "libc.so").write_text(f"GROUP ( libc.so.6 libc_nonshared.a AS_NEEDED ( {LOADER} ) )\n")
    (include / "c++").symlink_to("/usr/include/c++")
    (include / TRIPLE).mkdir(exist_ok=True)
    (include / TRIPLE / "c++").symlink_to(f"/usr/include/{TRIPLE}/c++")
    make_stub(libraries, "libstdc++.so.6", read_libstdcxx(_gcc_file(gcc, "libstdc++.so.6"), libstdcxx), gcc)
    shutil.copy(_gcc_file(gcc, "libstdc++.a"), libraries / "libstdc++_younger.a")
    (libraries / "libstdc++.so").write_text("INPUT ( libstdc++.so.6 -lstdc++_younger )\n")


def _gcc_file(gcc: str, name: str) -> Path:
    found = subprocess.run([gcc, f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    path = Path(found.stdout.strip())
    if not path.is_absolute():
        raise SystemExit(f"{gcc} has no {name}")
    return path.resolve()


def zig_library() -> Path:
    """Return the folder of zig's headers and lists."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"{sys.executable} has no ziglang, whose headers of glibc this takes: pip install ziglang"
        )
    return Path(spec.submodule_search_locations[0]) / "lib"


def main() -> None:
    """Make the sysroot that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--glibc", default="2.28", help="2.28, of manylinux_2_28")
    parser.add_argument("--libstdcxx", default="3.4.24", help="GLIBCXX_3.4.24, of manylinux_2_28")
    parser.add_argument("--gcc", default="gcc")
    given = parser.parse_args()
    glibc = (*map(int, given.glibc.split(".")), 0)
    newest = tuple(map(int, given.libstdcxx.split(".")))
    make_sysroot(given.folder, zig_library(), glibc, newest, given.gcc)


if __name__ == "__main__":
    main()
