"""Lazy names of a package, which load on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from types import ModuleType

from sparseflow.support.extras import refusal


def names(
    namespace: dict[str, object], home: Mapping[str, str], packages: Collection[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``.

    Args:
        namespace: the package's ``globals()``.
        home: for each name the module that has it, relative to the package.
        packages: names of packages in it.
    """
    package = str(namespace["__name__"])

    def get(name: str) -> object:
        if name in packages:
            return _load(f".{name}", package, name)
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(_load(f".{home[name]}", package, name), name)

    return get, lambda: sorted({*namespace, *home, *packages})


def _load(module: str, package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module, package)
    except ImportError as error:
        if (refused := refusal(f"{package}.{name}", error)) is not None:
            raise refused from None
        raise
