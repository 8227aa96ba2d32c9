"""What surrounds a call: autocast on and off, inside and outside of forward, and the default dtype."""

from __future__ import annotations

import contextlib
import copy
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.errors import CaptureError

WIDTH = 16


def bf16() -> AbstractContextManager[None]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def off() -> AbstractContextManager[None]:
    return torch.autocast("cpu", enabled=False)


class Nested(nn.Module):
    """Regions of autocast inside of forward."""

    def __init__(self, *regions: str) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.regions = regions

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        with contextlib.ExitStack() as stack:
            for region in self.regions:
                stack.enter_context({"on": bf16, "off": off}[region]())
            y = torch.softmax(self.second(y.float() if "off" in self.regions else y), -1).float()
        return self.third(y)


AMBIENT = {"none": contextlib.nullcontext, "on": bf16, "off": off}
REGIONS = [(), ("on",), ("off",), ("on", "off"), ("off", "on")]


@pytest.mark.parametrize("regions", REGIONS, ids="-".join)
@pytest.mark.parametrize("first", ["none", "on"])
@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_autocast_is_as_in_eager(regions: tuple[str, ...], first: str, inner: str, tmp_path) -> None:
    if inner == "inductor" and (first == "on" or len(regions) == 2):
        pytest.skip("the eager graph has the same casts")
    torch.manual_seed(0)
    model, x = Nested(*regions).eval(), torch.randn(5, WIDTH)
    compiled = sf.compile(model, inner=inner)
    runs = [compiled]
    for round_ in range(2):
        for name in (first, *AMBIENT):
            for run in runs:
                with torch.no_grad(), AMBIENT[name]():
                    found, expected = run(x), model(x)
                assert found.dtype == expected.dtype
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if inner == "eager" else 1e-2)
        if round_ == 0 and inner == "eager":
            compiled.save(tmp_path / "artifact")
            runs.append(sf.load(tmp_path / "artifact"))


@pytest.mark.parametrize("first", ["none", "on"])
def test_a_model_is_pruned_under_autocast_too(first: str) -> None:
    torch.manual_seed(0)
    model, x = Nested().eval(), torch.randn(5, WIDTH)
    pruned = copy.deepcopy(model)
    sf.prune(pruned)
    compiled = sf.compile(model, prune="magnitude", policy="sparse")
    for name in (first, "none", "on"):
        with torch.no_grad(), AMBIENT[name]():
            torch.testing.assert_close(compiled(x), pruned(x), rtol=2e-2, atol=2e-2)
    under = sf.compile(model, prune="magnitude", policy="sparse")
    with torch.no_grad(), bf16():
        under(x)
    assert all(layer.rel_err > 0.05 for layer in under.report.layers)
    assert all("is cast in each call" in layer.reason for layer in under.report.layers)


def test_the_default_dtype_of_a_call_is_that_of_the_program() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.ones(3)

    compiled, x = sf.compile(Model().eval()), torch.zeros(2, 3, dtype=torch.float16)
    try:
        for dtype in (torch.float32, torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            assert compiled(x).dtype == (x + torch.ones(3)).dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_backend_casts_once() -> None:
    torch._dynamo.reset()
    model, x = Nested("off").eval(), torch.randn(5, WIDTH)
    compiled = torch.compile(model, backend="sparseflow")
    for name in ("none", "on", "none"):
        with torch.no_grad(), AMBIENT[name]():
            found, expected = compiled(x), model(x)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_products_inside_of_operators_are_refused_under_autocast() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("ij,kj->ik", x, x)

    compiled, x = sf.compile(Model().eval()), torch.randn(3, WIDTH)
    torch.testing.assert_close(compiled(x), x @ x.T)
    with bf16(), pytest.raises(CaptureError, match=r"einsum.*under autocast"):
        compiled(x)
