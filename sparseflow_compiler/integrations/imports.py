"""Libraries told of SparseFlow without importing them: now if they are imported, else when they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

Tell = Callable[[ModuleType], None]


def when_imported(name: str, tell: Tell) -> None:
    """Hand a module on now if it is imported, else once it has run.

    Args:
        name: of the module, in full.
        tell: what takes it; it may be called again with the same module.
    """
    if name in sys.modules:
        tell(sys.modules[name])
    elif not any(isinstance(finder, _Watch) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch(name, tell))


class _Watch(MetaPathFinder):
    """Finds one module as others would, and is told when it has run."""

    def __init__(self, name: str, tell: Tell) -> None:
        self.name, self._tell = name, tell

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _TellAfter(spec.loader, self._tell)
        return spec


class _TellAfter(Loader):
    """Runs a module, then tells of it."""

    def __init__(self, loader: Loader, tell: Tell) -> None:
        self._loader, self._tell = loader, tell

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._tell(module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)  # get_source and the like
