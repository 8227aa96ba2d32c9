"""transformers told of packed folders, without importing it: ``import sparseflow`` does it.

Whichever is imported first, ``from_pretrained`` finds the quantizer that a packed folder's config.json names.
What it finds are stand-ins that import the real classes when a folder needs them: `sparseflow` stays light.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from sparseflow.support.hosts import HOSTS

if TYPE_CHECKING:
    from torch import nn

from sparseflow.integrations.imports import when_imported

METHOD = "sparseflow"
"""The ``quant_method`` in config.json."""

_REGISTRY = "transformers.quantizers.auto"
_REAL = "sparseflow.integrations.transformers.plugin.quantizer"
_PACKED = "sparseflow.integrations.transformers.plugin.packed_models"


def register() -> None:
    """Tell transformers of us, now or as soon as it is imported, and `sparseflow.nn` of transformers."""
    if not any(isinstance(host, _Host) for host in HOSTS):
        HOSTS.append(_Host())
    when_imported(_REGISTRY, _tell)


class _Host:
    """In place of the module `packed`, which imports torch."""

    def before_packing(self, model: nn.Module) -> None:
        importlib.import_module(_PACKED).require_unquantised(model)

    def after_packing(self, model: nn.Module, options: Mapping[str, object]) -> None:
        importlib.import_module(_PACKED).declare(model, options)

    def after_unpacking(self, model: nn.Module) -> None:
        importlib.import_module(_PACKED).withdraw(model)


class _Config:
    """In place of `SparseFlowConfig`."""

    @classmethod
    def from_dict(cls, *args: object, **kwargs: object) -> object:
        return importlib.import_module(_REAL).SparseFlowConfig.from_dict(*args, **kwargs)


def _quantizer(*args: object, **kwargs: object) -> object:
    """In place of `SparseFlowQuantizer`."""
    return importlib.import_module(_REAL).SparseFlowQuantizer(*args, **kwargs)


def _tell(registry: ModuleType) -> None:
    # Versions before 5 have no quantizers that this one's could take the place of: there it stays unknown.
    for table, stand_in in (
        ("AUTO_QUANTIZATION_CONFIG_MAPPING", _Config),
        ("AUTO_QUANTIZER_MAPPING", _quantizer),
    ):
        getattr(registry, table, {}).setdefault(METHOD, stand_in)
