"""The layers that quality/fp8_numbers.py puts into a model multiply the numbers that a weight has in fp8."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from sparseflow.runtime import fp8

FOLDER = Path(__file__).parents[3] / "benchmarks" / "quality"


@pytest.fixture(scope="module")
def script():
    """benchmarks/quality/fp8_numbers.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        spec = importlib.util.spec_from_file_location("fp8_numbers", FOLDER / "fp8_numbers.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_multiplies_the_dequantised_numbers(script, rows, bias):
    torch.manual_seed(0)
    layer = nn.Linear(48, 24, bias=bias).bfloat16().requires_grad_(False)
    x = torch.randn(2, 5, 48).bfloat16()
    x8, scale = fp8.quantize_rows(x)
    values, scales = fp8.quantize_weight(layer.weight)
    inputs = x8.double() * scale.double() if rows else x.double()
    expected = inputs @ (values.double() * scales.double()).T + (layer.bias.double() if bias else 0)
    y = script.Dequantized(layer, rows)(x)
    assert y.dtype == torch.bfloat16
    assert float((y.double() - expected).norm() / expected.norm()) < 3e-3


def test_every_layer_but_the_head_is_replaced(script):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 4)

        def get_output_embeddings(self):
            return self.head

    model = Model()
    twin = script.in_fp8(model, True)
    kinds = {name: type(module).__name__ for name, module in twin.named_modules()}
    assert [kinds[name] for name in ("body.0", "body.2", "head")] == ["Dequantized", "Dequantized", "Linear"]
    assert isinstance(model.body[0], nn.Linear)
