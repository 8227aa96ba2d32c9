"""Compiled models on disk, saved by `CompiledModel.save`; running them needs only torch and this package.

A folder: ``manifest.json`` (format, versions, size and BLAKE3 hash of every other file), for each program its
torch.fx graph and calling convention as JSON and its MLIR as text, the weights as shards of safetensors in
their portable form, and the report and policies.
"""

from __future__ import annotations

from sparseflow.runtime.artifact.loaded_model import LoadedModel, LoadedProgram
from sparseflow.runtime.artifact.loading import load
from sparseflow.runtime.artifact.writing import SavedProgram, write

__all__ = ["LoadedModel", "LoadedProgram", "SavedProgram", "load", "write"]
