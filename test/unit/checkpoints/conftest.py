"""A tiny Llama, pruned and as it is, in memory and on disk."""

from pathlib import Path

import pytest
from unit.checkpoints.tiny import llama

import sparseflow as sf


@pytest.fixture
def dense():
    return llama()


@pytest.fixture
def pruned():
    model = llama()
    sf.prune(model)
    return model


@pytest.fixture
def dense_folder(dense, tmp_path: Path) -> Path:
    dense.save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def pruned_folder(pruned, tmp_path: Path) -> Path:
    pruned.save_pretrained(tmp_path / "pruned")
    return tmp_path / "pruned"
