"""A saved model computes what it computed before, without the compiler and without the model's code."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import zoo
from isolated import BLOCK, python, warm_python
from safetensors import safe_open
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError, ArtifactError, CaptureError, InferenceOnlyError
from sparseflow.runtime.artifact import class_lookup, replacing

RELOAD = (
    BLOCK
    + """
import torch, sparseflow as sf
torch.set_grad_enabled(False)
calls, expected = torch.load("calls.pt")
loaded = sf.load("artifact")
for kwargs, tensors in zip(calls, expected, strict=True):
    out = loaded(**kwargs)
    assert list(out) == list(tensors) or {"cache", "past_key_values"} & set(out)
    assert all(torch.equal(getattr(out, name), tensor) for name, tensor in tensors.items())
assert loaded.report["layers"] and "sparse_gemm.linear" in loaded.mlir()
"""
)
DECODE = """
cache = loaded(input_ids=calls[0]["input_ids"]).past_key_values
step = {"input_ids": calls[0]["input_ids"][:, :1], "past_key_values": cache}
assert torch.equal(loaded(**step).logits, torch.load("step.pt"))
"""
LOADED = """
assert not [name for name in sys.modules if name.partition(".")[0] in ("torch_mlir", "transformers")]
assert not [name for name in sys.modules if name.startswith(("sparseflow.frontend", "sparseflow.passes"))]
"""


def save_with_outputs(name: str, folder: Path) -> sf.CompiledModel:
    model, calls = zoo.model_and_calls(name)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    with torch.no_grad():
        outputs = [compiled(**kwargs) for _, kwargs in calls]
    tensors = [{k: v for k, v in out.items() if isinstance(v, torch.Tensor)} for out in outputs]
    torch.save(([kwargs for _, kwargs in calls], tensors), folder / "calls.pt")
    return compiled


def test_a_bert_runs_without_the_compiler_and_without_transformers(tmp_path: Path) -> None:
    save_with_outputs("bert", tmp_path).save(tmp_path / "artifact")
    done = warm_python(RELOAD + LOADED, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_llama_does_too_and_takes_the_cache_that_it_returned(tmp_path: Path) -> None:
    compiled = save_with_outputs("llama", tmp_path)
    calls, _ = torch.load(tmp_path / "calls.pt")
    with torch.no_grad():
        cache = compiled(**calls[0]).past_key_values
        step = compiled(input_ids=calls[0]["input_ids"][:, :1], past_key_values=cache)
    torch.save(step.logits, tmp_path / "step.pt")
    compiled.save(tmp_path / "artifact")
    done = warm_python(RELOAD + DECODE + LOADED, tmp_path)
    assert done.returncode == 0, done.stderr


def test_outputs_have_their_class_where_it_is_imported(tmp_path: Path) -> None:
    model, calls = zoo.model_and_calls("llama")
    compiled = sf.compile(model, prune="magnitude", policy="sparse", kwargs=calls[0][1])
    compiled.save(tmp_path / "llama")
    with torch.no_grad():
        expected, found = compiled(**calls[0][1]), sf.load(tmp_path / "llama")(**calls[0][1])
    assert type(found) is type(expected)
    assert type(found.past_key_values) is type(expected.past_key_values)
    assert found.past_key_values.get_seq_length() == expected.past_key_values.get_seq_length()


Pair = namedtuple("Pair", "sum difference")


@dataclass
class Note:
    value: torch.Tensor
    size: int


class Odd(nn.Module):
    """Several programs, a buffer that counts, containers of many kinds, infinities among the constants."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(64, 128)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor, y: list[torch.Tensor] | None = None) -> dict[object, object]:
        self.calls += 1
        up = self.up(x).masked_fill(x.sum() > 1e9, float("-inf"))
        other = up if y is None else y[0]
        pair = Pair(up + other, up - other)
        return {"pair": pair, 3: (self.calls * 1, None), "note": Note(up, 7), "shape": up.shape[0]}


@pytest.fixture
def odd(tmp_path: Path) -> tuple[sf.CompiledModel, Path]:
    compiled = sf.compile(Odd().eval(), prune="magnitude", policy="sparse")
    for call in ((torch.randn(2, 64),), (torch.randn(64),), (torch.randn(2, 64), [torch.randn(2, 128)])):
        compiled(*call)
    compiled.save(tmp_path / "odd")
    return compiled, tmp_path / "odd"


@pytest.mark.parametrize("given", [(), (Pair, Note)])
def test_structures_come_back_with_stand_ins_for_classes_that_were_not_given(odd, given) -> None:
    compiled, folder = odd
    loaded, x = sf.load(folder, classes=given), torch.randn(5, 64)
    found, expected = loaded(x), compiled(x)
    assert list(found) == list(expected) == ["pair", 3, "note", "shape"]
    assert torch.equal(found["pair"].sum, expected["pair"].sum)
    assert torch.equal(found["note"].value, expected["note"].value)
    assert (found["note"].size, found["shape"], found[3][1]) == (7, 5, None)
    assert isinstance(found["note"], Note) is bool(given)
    assert isinstance(found["pair"], Pair) is bool(given)


def test_each_call_finds_its_program_and_they_share_buffers_but_not_with_the_file(odd) -> None:
    _, folder = odd
    loaded, y = sf.load(folder), [torch.randn(2, 128)]
    counts = [
        loaded(*call)[3][0].item() for call in ((torch.randn(3, 64),), (torch.randn(64),), (y[0][:, :64], y))
    ]
    assert counts == [4.0, 5.0, 6.0]
    assert sf.load(folder)(torch.randn(64))[3][0] == 4.0
    with pytest.raises(ArgumentError, match="none of its 3 programs accepts this call"):
        loaded(torch.randn(2, 2, 2, 64))


def test_weights_are_stored_once_and_packed(odd) -> None:
    compiled, folder = odd
    with safe_open(folder / "weights-00001.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    packed = [name for name, shape in shapes.items() if shape == (128, 32)]
    assert packed == [f"{name[: -len('.values')]}.values" for name in packed]
    assert len(packed) == 1
    assert (128, 64) not in shapes.values()
    assert sf.load(folder).mlir("runtime", program=2) == compiled.mlir("runtime", program=2)


def test_a_quantised_model_and_one_in_several_shards_come_back(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sparseflow.runtime.artifact.weight_files.SHARD_BYTES", 1)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval().to(torch.bfloat16)
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    compiled = sf.compile(model, (x,), prune="magnitude", format="2:4-fp8", policy="sparse")
    compiled.save(tmp_path / "fp8")
    assert len(list((tmp_path / "fp8").glob("weights-*"))) > 1
    assert torch.equal(sf.load(tmp_path / "fp8")(x), compiled(x))


def test_a_model_with_nothing_captured_or_no_name_for_its_operator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="nothing was captured"):
        sf.compile(Odd().eval(), prune="magnitude").save(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear")
    compiled = sf.compile(Odd().eval(), (torch.randn(2, 64),), prune="magnitude")
    with pytest.raises(ArtifactError, match="something other than an artifact"):
        compiled.save(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "dear"
    with pytest.raises(ArtifactError, match="there is no folder"):
        compiled.save(tmp_path / "no" / "where")


def test_an_artifact_is_replaced_as_a_whole_or_stays(odd, monkeypatch) -> None:
    compiled, folder = odd
    compiled.save(folder)
    before = (folder / "manifest.json").read_text()
    monkeypatch.setattr(
        "sparseflow.runtime.artifact.writing.seal", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(ArtifactError, match="can't be written"):
        compiled.save(folder)
    assert (folder / "manifest.json").read_text() == before
    assert [path.name for path in folder.parent.iterdir()] == ["odd"]
    sf.load(folder)


def test_the_old_artifact_stays_where_the_new_one_cant_take_its_place(odd, monkeypatch) -> None:
    compiled, folder = odd
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(13, "denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(replacing, "_swap", lambda one, other: False)  # a system that can't exchange names
    with pytest.raises(ArtifactError, match="can't be written: denied"):
        compiled.save(folder)
    monkeypatch.undo()
    sf.load(folder)


def test_a_loaded_model_is_for_inference_only_and_for_its_device(odd) -> None:
    _, folder = odd
    loaded = sf.load(folder)
    with pytest.raises(InferenceOnlyError):
        loaded(torch.randn(2, 64, requires_grad=True))
    with pytest.raises(InferenceOnlyError):
        loaded.train()
    with pytest.raises(ArgumentError, match="compiled for cpu"):
        sf.load(folder, device="meta")
    with pytest.raises(ArgumentError, match="can't be used"):
        sf.load(folder, device="no-such-device")


def test_inductor_runs_a_loaded_program(odd) -> None:
    compiled, folder = odd
    x = torch.randn(2, 64)
    found = sf.load(folder, inner="inductor")(x)
    torch.testing.assert_close(found["pair"].sum, compiled(x)["pair"].sum, rtol=1e-5, atol=1e-5)


def test_loading_takes_no_memory_beyond_the_packed_bytes(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(6))).eval()
    sf.compile(model, (torch.randn(2, 2048),), prune="magnitude", policy="sparse", inplace=True).save(
        tmp_path / "artifact"
    )
    done = python(
        """
        import json, pathlib, torch, sparseflow as sf
        sf.load  # what importing takes is not what loading takes

        def peak():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        weight = torch.randn(64, 64)
        sf.sparse_mm(torch.randn(2, 64), sf.compress_2_4(sf.prune_24(weight)))
        before = peak()
        sf.load("artifact")(torch.randn(2, 2048))
        print(json.dumps(peak() - before))
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    packed = (tmp_path / "artifact" / "weights-00001.safetensors").stat().st_size
    assert packed > 50e6
    assert json.loads(done.stdout) <= 1.1 * packed


def test_classes_of_an_artifact_are_never_imported_nor_those_with_a_finaliser() -> None:
    found = class_lookup.ClassLookup().plain("subprocess:Popen")
    assert issubclass(found, class_lookup.Attributes)
    assert found is class_lookup.ClassLookup().plain("subprocess:Popen")
    assert issubclass(
        class_lookup.ClassLookup().plain("transformers.no_such_module:Cache"), class_lookup.Attributes
    )
