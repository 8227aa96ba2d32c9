"""transformers told of packed folders, without importing it: ``import sparseflow`` does it.

Whichever is imported first, ``from_pretrained`` finds the quantizer that a packed folder's config.json names.
What it finds are stand-ins that import the real classes when a folder needs them: `sparseflow` stays light.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from sparseflow.integrations.imports import when_imported

METHOD = "sparseflow"
"""The ``quant_method`` in config.json."""

_REGISTRY = "transformers.quantizers.auto"
_REAL = "sparseflow.integrations.transformers.quantizer"


def register() -> None:
    """Tell transformers now if it is imported, else as soon as it is."""
    when_imported(_REGISTRY, _tell)


class _Config:
    """In place of `SparseFlowConfig`."""

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module(_REAL).SparseFlowConfig.from_dict(*args, **kwargs)


def _quantizer(*args: Any, **kwargs: Any) -> Any:
    """In place of `SparseFlowQuantizer`."""
    return importlib.import_module(_REAL).SparseFlowQuantizer(*args, **kwargs)


def _tell(registry: ModuleType) -> None:
    # Versions before 5 have no quantizers that this one's could take the place of: there it stays unknown.
    for table, stand_in in (
        ("AUTO_QUANTIZATION_CONFIG_MAPPING", _Config),
        ("AUTO_QUANTIZER_MAPPING", _quantizer),
    ):
        getattr(registry, table, {}).setdefault(METHOD, stand_in)
