"""Call back with a library's module as soon as something imports it, without importing it here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

Callback = Callable[[ModuleType], None]


def when_imported(name: str, callback: Callback) -> None:
    """Call back with a module: now if it is imported already, else right after its import.

    Args:
        name: full name of the module.
        callback: may be called again with the same module.
    """
    if name in sys.modules:
        callback(sys.modules[name])
    elif not any(isinstance(finder, _ImportWatcher) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportWatcher(name, callback))


class _ImportWatcher(MetaPathFinder):
    """Find one module as usual, with a loader that calls back after its import."""

    def __init__(self, name: str, callback: Callback) -> None:
        self.name, self._callback = name, callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _NotifyingLoader(spec.loader, self._callback)
        return spec


class _NotifyingLoader(Loader):
    """Load a module as another loader does, then call back with it."""

    def __init__(self, loader: Loader, callback: Callback) -> None:
        self._loader, self._callback = loader, callback

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._callback(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # get_source and the like
