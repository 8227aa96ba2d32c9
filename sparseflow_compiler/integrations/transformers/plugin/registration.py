"""transformers told of packed folders, without importing it: ``import sparseflow`` does it.

Whichever is imported first, ``from_pretrained`` finds the quantizer that a packed folder's config.json names.
What it finds are stand-ins that import the real classes when a folder needs them: `sparseflow` stays light.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sparseflow.support.hosts import HOSTS

if TYPE_CHECKING:
    from torch import nn

METHOD = "sparseflow"
"""The ``quant_method`` in config.json."""

_REGISTRY = "transformers.quantizers.auto"
_REAL = "sparseflow.integrations.transformers.plugin.quantizer"
_PACKED = "sparseflow.integrations.transformers.plugin.packed"


def register() -> None:
    """Tell transformers of us, now or as soon as it is imported, and `sparseflow.nn` of transformers."""
    if not any(isinstance(host, _Host) for host in HOSTS):
        HOSTS.append(_Host())
    if _REGISTRY in sys.modules:
        _tell(sys.modules[_REGISTRY])
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Host:
    """In place of the module `packed`, which imports torch."""

    def before_packing(self, model: nn.Module) -> None:
        importlib.import_module(_PACKED).require_unquantised(model)

    def after_packing(self, model: nn.Module, options: Mapping[str, Any]) -> None:
        importlib.import_module(_PACKED).declare(model, options)

    def after_unpacking(self, model: nn.Module) -> None:
        importlib.import_module(_PACKED).withdraw(model)


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


class _Watch(MetaPathFinder):
    """Finds one module as others would, and is told when it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _REGISTRY:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _TellAfter(spec.loader)
        return spec


class _TellAfter(Loader):
    """Runs a module, then tells it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _tell(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source and the like
