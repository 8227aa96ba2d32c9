"""The rows that a plan of cuSPARSELt is built for, which need no GPU to be known."""

import pytest
import torch

import sparseflow.runtime.ops  # noqa: F401  # loads the operators
from sparseflow.runtime.gpu import plans

DTYPES = (torch.bfloat16, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_plan_adds_few_rows_to_any_number(dtype):
    rows = torch.ops.sparseflow.plan_rows
    unit = 16 if dtype.itemsize == 1 else 8
    for m in (*range(1, 4100), *range(4100, 40_000, 61), 100_000):
        planned = rows(m, dtype)
        assert planned >= m
        assert planned % unit == 0
        if m > 64:
            assert planned - m < min(256, max(unit, m / 8)), m


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_plans_serve_all_numbers(dtype):
    rows = torch.ops.sparseflow.plan_rows
    assert len({rows(m, dtype) for m in range(1, 4097)}) <= 60
    assert len({rows(m, dtype) for m in range(4097, 16_385)}) == 48


def test_the_images_of_a_batch_are_hardly_rounded():
    """64 images of ViT-L/14: an eighth more, as smaller numbers may get, was more than 2:4 gained."""
    assert torch.ops.sparseflow.plan_rows(64 * 257, torch.bfloat16) == 16_640


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("largest", [1, 100, 8192, 8200])
def test_every_plan_up_to_a_number_has_its_rows(dtype, largest):
    rows = torch.ops.sparseflow.plan_rows
    found = plans.rows_of_plans(largest, dtype)
    assert found[-1] == largest
    assert [rows(m, dtype) for m in found] == sorted({rows(m, dtype) for m in range(1, largest + 1)})
