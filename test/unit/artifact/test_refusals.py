"""Artifacts that are truncated, changed, newer, foreign or hostile are refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, ArtifactError
from sparseflow.runtime.artifact.contracts import require_arithmetic
from sparseflow.runtime.artifact.graphs import find_operator
from sparseflow.runtime.tuning.gpu_identity import GpuMachine

FILES = (
    "manifest.json",
    "program-0.json",
    "weights.json",
    "weights-00001.safetensors",
    "program-0.torch.mlir",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU()).eval()
    folder = tmp_path_factory.mktemp("saved") / "artifact"
    sf.compile(model, (torch.randn(2, 64),), prune="magnitude", policy="sparse").save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "artifact")
    return tmp_path / "artifact"


def reseal(folder: Path) -> None:
    """Make digests right again, as one would who forges an artifact."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("blake3", None)
    for file in manifest["files"]:
        content = (folder / file).read_bytes()
        manifest["files"][file] = {"bytes": len(content), "blake3": blake3(content).hexdigest()}
    whole = blake3(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"blake3": whole}))


def edit(folder: Path, name: str, change: Callable[[Any], None]) -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


@pytest.mark.parametrize("name", FILES[1:])
def test_a_truncated_file_is_refused(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"{name} has {len(content) - 1} bytes of {len(content)}"):
        sf.load(folder)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_changed_byte_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        sf.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        sf.load(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 5}, "its format version is 5; this SparseFlow reads version 4"),
        ({"version": 3}, "its format version is 3; this SparseFlow reads version 4"),
        ({"version": True}, "its format version is True"),
        ({"format": "gguf"}, "wasn't written by SparseFlow"),
        ({"name": "Other"}, "was changed after it was written"),
    ],
)
def test_a_newer_a_foreign_and_a_changed_manifest_are_told_apart(folder: Path, change, reason: str) -> None:
    edit(folder, "manifest.json", lambda manifest: manifest.update(change))
    with pytest.raises(ArtifactError, match=reason):
        sf.load(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000, "\x00"])
def test_a_manifest_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError):
        sf.load(folder)


def test_what_is_no_folder_or_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such folder"):
        sf.load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"it has no manifest\.json"):
        sf.load(tmp_path)


@pytest.mark.parametrize(
    "operator",
    [
        "aten.from_file.default",
        "aten.save.default",
        "sparseflow.cusparselt_open.default",
        "sparseflow.plans_reset.default",
        "prim.Print.default",
        "os.system",
        "sym.__import__",
        "aten.__class__.default",
        "",
    ],
)
def test_only_operators_that_compute_are_found(folder: Path, operator: str) -> None:
    def replace(program: dict[str, Any]) -> None:
        call = next(node for node in program["graph"]["nodes"] if isinstance(node, list))
        call[0] = operator

    edit(folder, "program-0.json", replace)
    reseal(folder)
    with pytest.raises(ArtifactError, match="operator"):
        sf.load(folder)
    with pytest.raises(ValueError, match="operator"):
        find_operator(operator)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "s.__class__",
        "min.__call__(s)",
        "[s for s in (1,)]",
        "'a' * 9",
        "t > 1",
        "2 ** s",
        "9 ** 9 ** 9",
        "s ** 9 == 1",
        "((((s ** 8) ** 8) ** 8) ** 8) ** 8",
        "torch.load(s)",
        "min(s, key=min)",
        "s = 1",
        "(" * 5000,
        "s +" * 10_000,
    ],
)
def test_a_condition_that_is_more_than_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        require_arithmetic(text, ("s",))


def test_conditions_as_torch_prints_them_are_arithmetic() -> None:
    for text in (
        "s*t % 2 == 0",
        "math.ceil(s / 2) <= max(1, t)",
        "s != 4 and not t > s**2",
        "(1 if s else -t)",
    ):
        assert require_arithmetic(text, ("s", "t")) == text


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("program-0.json", lambda p: p["contract"]["relations"].append("__import__('os')")),
        ("program-0.json", lambda p: p["contract"]["symbols"].update({"x: exit()": [0, 0]})),
        ("program-0.json", lambda p: p["graph"]["nodes"][-1].__setitem__(1, [{"node": 999}])),
        ("program-0.json", lambda p: p["graph"]["nodes"].__setitem__(0, {"weight": ["__class__", ""]})),
        ("program-0.json", lambda p: p["graph"]["nodes"][-1].__setitem__(2, {"x=exit()": 1})),
        ("program-0.json", lambda p: p["graph"]["nodes"].insert(1, {"weight": ['a")', ""]})),
        ("program-0.json", lambda p: p["contract"]["inputs"]["slots"].append("leaf")),
        ("weights.json", lambda w: next(iter(w.values())).update(file="../../etc/passwd")),
        ("weights.json", lambda w: next(iter(w.values())).update(format=["pickle"])),
        ("weights.json", lambda w: [e.update(in_features=60) for e in w.values() if "format" in e]),
        ("weights.json", lambda w: [e.update(format="3:7") for e in w.values() if "format" in e]),
        ("weights.json", lambda w: [e.update(dtype="int64") for e in w.values() if "format" in e]),
        ("weights.json", lambda w: [e.update(format="2:4-fp8") for e in w.values() if "format" in e]),
    ],
)
def test_a_forged_artifact_is_refused(folder: Path, name: str, change) -> None:
    edit(folder, name, change)
    reseal(folder)
    with pytest.raises(ArtifactError):
        sf.load(folder)


def test_algorithms_of_another_gpu_are_not_run(folder: Path, monkeypatch) -> None:
    tuned = GpuMachine("NVIDIA H200", "9.0", "580", "0.10.0", "2.11")
    edit(folder, "manifest.json", lambda manifest: manifest.update(machine=asdict(tuned)))
    reseal(folder)
    for changed in ({"gpu": "NVIDIA H100"}, {"cusparselt": "0.11.0"}):
        monkeypatch.setattr(GpuMachine, "here", lambda device, changed=changed: replace(tuned, **changed))
        with pytest.raises(ArgumentError, match=next(iter(changed.values()))):
            sf.load(folder)
    monkeypatch.setattr(GpuMachine, "here", lambda device: replace(tuned, driver="590", torch="2.13"))
    sf.load(folder)


def test_a_file_outside_the_folder_is_not_read(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    edit(folder, "manifest.json", lambda manifest: manifest["files"].update({"../secret": {}}))
    reseal(folder)
    with pytest.raises(ArtifactError, match="isn't a file of the folder"):
        sf.load(folder)


def _paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(inner for key, value in items for inner in _paths(value, (*path, key)))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just("leaf"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_forged_json_loads_or_is_refused(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["manifest.json", "program-0.json", "weights.json"]))
    content = json.loads((folder / name).read_text())
    *path, last = data.draw(st.sampled_from(_paths(content)[1:]))
    place = content
    for key in path:
        place = place[key]
    place[last] = data.draw(JSON)
    (folder / name).write_text(json.dumps(content))
    with suppress(TypeError, KeyError, OSError, AttributeError, ValueError):  # then the digest is wrong
        reseal(folder)
    with suppress(ArtifactError):
        sf.load(folder)
