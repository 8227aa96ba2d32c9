"""Inputs for `sf.load`: saved models whose documents, weights, bytes and files are changed."""

from __future__ import annotations

import json
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fuzz_models
import torch

import sparseflow as sf
from sparseflow.errors import SparseFlowError
from sparseflow.runtime.artifact.manifest import HASH, NAME, digests, own_digest

SCALARS = (
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    2**31,
    2**63,
    -(2**64),
    1e308,
    float("nan"),
    "",
    "leaf",
    "\ud800",
    "(" * 99,
)
DOCUMENTS = ("program", "program", "program", "program", "weights.json", "report.json", NAME)
_OPERATORS = [f"aten.{name}.default" for name in dir(torch.ops.aten) if not name.startswith("__")]


class LoadTarget:
    """`sf.load`, and a call of what it loaded.

    Args:
        seed: of all inputs.
        scratch: where artifacts are written.
    """

    def __init__(self, seed: int, scratch: Path) -> None:
        self._seed, self._folder = seed, scratch / "artifact"
        bases = scratch / "bases"
        if not bases.is_dir():
            (scratch / "unfinished").mkdir()
            fuzz_models.save_all(scratch / "unfinished")
            (scratch / "unfinished").rename(bases)
        self._calls = {path.stem: torch.load(path) for path in sorted(bases.glob("*.pt"))}
        self._bases = bases

    def run(self, number: int) -> tuple[str, str]:
        """Try an input: it loads or is refused with a reason; if it was not resealed, it must be refused."""
        rng = random.Random(f"load {self._seed} {number}")
        base = rng.choice(list(self._calls))
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._bases / base, self._folder)
        sealed = rng.random() < 0.85
        change = rng.choice(_FORGERIES if sealed else _ACCIDENTS)
        what = f"{change.__name__} of {base}{'' if sealed else ', not resealed'}: {change(rng, self._folder)}"
        if sealed:
            _reseal(self._folder)
        try:
            loaded = sf.load(self._folder)
        except SparseFlowError:
            return "refused", ""
        except BaseException:  # whatever else gets out is a finding
            return "wrong", f"{what}\n{traceback.format_exc()[-4000:]}"
        if not sealed:
            return "wrong", f"{what}\nwas loaded"
        return self._call(loaded, rng.choice(self._calls[base]))

    def _call(self, loaded: torch.nn.Module, call: tuple[Any, ...]) -> tuple[str, str]:
        """Run a forged program: torch may refuse it in any way but by dying."""
        try:
            loaded(*call)
        except Exception:
            return "loaded, fails", ""
        return "loaded, runs", ""


def _document(rng: random.Random, folder: Path) -> str:
    """Change places of a JSON document."""
    wanted = rng.choice(DOCUMENTS)
    path = rng.choice(sorted(folder.glob(f"{wanted}*json" if wanted == "program" else wanted)))
    content = json.loads(path.read_text())
    said = [_edit(rng, content) for _ in range(min(1 + int(rng.expovariate(1.5)), 5))]
    path.write_text(json.dumps(content))
    return f"{path.name}: {'; '.join(said)}"


def _edit(rng: random.Random, content: Any) -> str:
    places = list(_places(content))
    if not places:
        return "nothing left"
    holder, key = rng.choice(places)
    old = holder[key]
    new: Any
    match rng.randrange(6):
        case 0 | 1:
            new = rng.choice(SCALARS)
        case 2 | 3:
            other, there = rng.choice([p for p in places if type(p[0][p[1]]) is type(old)])
            new = json.loads(json.dumps(other[there]))
        case 4 if isinstance(old, str):
            new = rng.choice([*_OPERATORS, old[:-1], old + "x", old + "." + old])
        case 4:
            new = rng.choice(
                [[old], {"tuple": [old]}, {"class": "os:system"}, {"node": 0}, {"device": "cuda"}]
            )
        case _:
            del holder[key]
            return f"{key!r:.40} deleted"
    holder[key] = new
    return f"{key!r:.40} = {new!r:.80}"


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document that can be assigned to."""
    pending = [content]
    while pending:
        holder = pending.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                pending.append(holder[key])


def _weights(rng: random.Random, folder: Path) -> str:
    """Change the header or the bytes of a file of weights."""
    path = rng.choice(sorted(folder.glob("*.safetensors")))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    kind = rng.random()
    if kind < 0.6:
        said = _edit(rng, header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        return said
    if kind < 0.8:
        wrong = rng.choice([0, 1, size - 1, size + 1, len(data), 2**63, 2**64 - 1])
        path.write_bytes(wrong.to_bytes(8, "little") + data[8:])
        return f"header of {wrong} bytes"
    return _bytes(rng, folder, path)


def _bytes(rng: random.Random, folder: Path, path: Path | None = None) -> str:
    """Change bytes of a file, or cut it off."""
    path = path or rng.choice(sorted(folder.iterdir()))
    data = bytearray(path.read_bytes())
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    else:
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    path.write_bytes(data)
    return path.name


def _file(rng: random.Random, folder: Path) -> str:
    """Take a file away, or put something else there."""
    path = rng.choice(sorted(folder.iterdir()))
    path.unlink()
    kind = rng.choice(["nothing", "folder", "link", "loop"])
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path.name)
    return f"{kind} for {path.name}"


def _reseal(folder: Path) -> None:
    """Make sizes and digests right again, as one would who forges an artifact; where that can be."""
    if not (folder / NAME).is_file():  # devices, here and below, have no end: they are left to sf.load
        return
    with suppress(Exception):
        manifest = json.loads((folder / NAME).read_text())
        manifest.pop(HASH, None)
        paths = [folder / file for file in manifest["files"] if (folder / file).is_file()]
        for path, digest in digests(paths).items():
            manifest["files"][path.name] = {"bytes": path.stat().st_size, HASH: digest}
        (folder / NAME).write_text(json.dumps({**manifest, HASH: own_digest(manifest)}))


Change = Callable[[random.Random, Path], str]
_FORGERIES: tuple[Change, ...] = (*(_document,) * 6, *(_weights,) * 2, _bytes, _file)
_ACCIDENTS: tuple[Change, ...] = (_bytes, _bytes, _file)
