"""Register the quantizer of packed folders; ``import sparseflow`` does it without importing transformers.

Whichever is imported first, ``from_pretrained`` finds the quantizer that a packed folder's config.json names.
Stand-ins are registered, which import the real classes only when a folder needs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sparseflow.support.hosts import HOSTS

if TYPE_CHECKING:
    from torch import nn

from sparseflow.integrations.imports import when_imported

METHOD = "sparseflow"
"""The ``quant_method`` in config.json."""

_REGISTRY = "transformers.quantizers.auto"
_REAL = "sparseflow.integrations.transformers.plugin.quantizer"
_WRAPPED = "_sparseflow"
"""The mark of what was replaced in transformers."""

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
    if hasattr(registry, "AutoHfQuantizer"):
        _let_ours_read_fp8(registry.AutoHfQuantizer)


def _let_ours_read_fp8(quantizers: Any) -> None:
    """Let `SparseFlowConfig` load folders that another method quantised to fp8.

    transformers refuses a configuration of another class than the folder's. What isn't ours goes its way.
    """
    theirs = quantizers.merge_quantization_configs
    if hasattr(theirs, _WRAPPED):
        return

    def merge(declared: object, given: object) -> object:
        over = getattr(given, "over", None) if getattr(given, "quant_method", None) == METHOD else None
        found = over(declared) if over is not None else None
        return theirs(declared, given) if found is None else found

    setattr(merge, _WRAPPED, True)
    quantizers.merge_quantization_configs = staticmethod(merge)
