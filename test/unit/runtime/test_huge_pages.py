"""Huge pages under tensors: what they hold and where stays the same."""

from __future__ import annotations

import sys

import pytest
import torch

from sparseflow.runtime.huge_pages import LEAST, SIZE, lay_in_huge_pages


def test_tensors_stay_what_and_where_they_are() -> None:
    tensors = [torch.arange(3 * SIZE // 8), torch.arange(5), torch.arange(LEAST // 4)[3:]]
    before = [(tensor.clone(), tensor.data_ptr()) for tensor in tensors]
    done = lay_in_huge_pages(tensors)
    assert done % SIZE == 0
    for tensor, (values, place) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, values)
        assert tensor.data_ptr() == place
    assert lay_in_huge_pages([]) == 0


def test_systems_without_them_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert lay_in_huge_pages([torch.zeros(SIZE)]) == 0
