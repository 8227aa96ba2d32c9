"""Artifacts on a GPU: the device's layout is derived from the portable one, and results are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sparseflow as sf
from sparseflow.errors import ArgumentError
from sparseflow.runtime.packed import PackedWeight

pytestmark = pytest.mark.gpu


@pytest.fixture
def saved(tmp_path: Path) -> tuple[sf.CompiledModel, Path, torch.Tensor]:
    layers = [nn.Linear(1024, 1536), nn.GELU(), nn.Linear(1536, 1000, bias=False)]
    model = nn.Sequential(*layers).eval().to("cuda", torch.bfloat16)
    x = torch.randn(32, 1024, dtype=torch.bfloat16, device="cuda")
    compiled = sf.compile(model, (x,), prune="magnitude", policy="sparse")
    compiled.save(tmp_path / "artifact")
    return compiled, tmp_path / "artifact", x


@pytest.mark.parametrize("options", [{"inner": "eager"}, {"inner": "inductor"}, {"mode": "reduce-overhead"}])
def test_a_loaded_model_computes_the_same(saved, options) -> None:
    compiled, folder, x = saved
    loaded = sf.load(folder, device="cuda", **options)
    for rows in (1, 32, 200, 32, 32):
        rows_of_x = x[:1].expand(rows, -1).contiguous()
        torch.testing.assert_close(loaded(rows_of_x), compiled(rows_of_x), rtol=2e-2, atol=2e-2)


def test_packed_weights_are_in_the_layout_of_the_device_and_equal(saved) -> None:
    compiled, folder, _ = saved
    one, other = (
        [m for m in graph.modules() if isinstance(m, PackedWeight)]
        for graph in (compiled.graph(), sf.load(folder).graph())
    )
    assert len(one) == len(other) == 2
    for a, b in zip(one, other, strict=True):
        assert b.positions.is_cuda
        assert a.nbytes == b.nbytes
        assert torch.equal(a.unpack(), b.unpack())


def test_loading_takes_little_more_than_the_packed_bytes(tmp_path: Path) -> None:
    model = (
        nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(16)))
        .eval()
        .to("cuda", torch.bfloat16)
    )
    x = torch.randn(8, 4096, dtype=torch.bfloat16, device="cuda")
    sf.compile(model, (x,), prune="magnitude", policy="sparse", inplace=True).save(tmp_path / "artifact")
    del model
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loaded = sf.load(tmp_path / "artifact", inner="eager")
    packed = sum(m.nbytes for m in loaded.graph().modules() if isinstance(m, PackedWeight))
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * packed


def test_an_artifact_of_the_gpu_is_not_loaded_to_the_cpu(saved) -> None:
    with pytest.raises(ArgumentError, match="compiled for cuda"):
        sf.load(saved[1], device="cpu")
