"""Register the quantizer of packed folders; ``import sparseflow`` does it without importing transformers.

Whichever is imported first, ``from_pretrained`` finds the quantizer that a packed folder's config.json names.
Stand-ins are registered, which import the real classes only when a folder needs them.
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
    """Register with transformers, now or as soon as it is imported, and with `sparseflow.nn`."""
    if not any(isinstance(host, _Host) for host in HOSTS):
        HOSTS.append(_Host())
    when_imported(_REGISTRY, _add_stand_ins)


class _Host:
    """A stand-in for the module `packed_models`, which imports torch."""

    def before_packing(self, model: nn.Module) -> None:
        importlib.import_module(_PACKED).require_unquantised(model)

    def after_packing(self, model: nn.Module, options: Mapping[str, object]) -> None:
        importlib.import_module(_PACKED).attach_quantizer(model, options)

    def after_unpacking(self, model: nn.Module) -> None:
        importlib.import_module(_PACKED).detach_quantizer(model)


class _Config:
    """A stand-in for `SparseFlowConfig`."""

    @classmethod
    def from_dict(cls, *args: object, **kwargs: object) -> object:
        return importlib.import_module(_REAL).SparseFlowConfig.from_dict(*args, **kwargs)


def _quantizer(*args: object, **kwargs: object) -> object:
    """Create a `SparseFlowQuantizer`; a stand-in for the class."""
    return importlib.import_module(_REAL).SparseFlowQuantizer(*args, **kwargs)


def _add_stand_ins(registry: ModuleType) -> None:
    # Versions before 5 have no such tables; the quantizer isn't available there.
    for table, stand_in in (
        ("AUTO_QUANTIZATION_CONFIG_MAPPING", _Config),
        ("AUTO_QUANTIZER_MAPPING", _quantizer),
    ):
        getattr(registry, table, {}).setdefault(METHOD, stand_in)
