"""Names and classes of transformers' caches, recognised without importing transformers."""

from __future__ import annotations

from collections.abc import Container

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""Names of the cache that a model takes and returns: the first since transformers 5.24, the others before."""


def is_cache(value: object) -> bool:
    """Return whether a value is a transformers cache of any class."""
    kind = type(value)
    return kind.__name__.endswith("Cache") and of_transformers(kind.__module__)


def of_transformers(module: str) -> bool:
    """Return whether a module name belongs to transformers."""
    return module.partition(".")[0] == "transformers"


def known_name(name: str, known: Container[str]) -> str:
    """Translate a cache's name to the one among the known names; return other names unchanged."""
    if name in known or name not in CACHE_NAMES:
        return name
    return cache_name(known) or name


def cache_name(known: Container[str]) -> str | None:
    """Return the name of the cache among parameters or fields, or None."""
    return next((name for name in CACHE_NAMES if name in known), None)


def other_cache_names(owner: object, parameters: Container[str]) -> frozenset[str]:
    """Return further names under which a transformers model accepts its cache.

    Args:
        owner: the model.
        parameters: those of its forward.
    """
    ours = any(of_transformers(kind.__module__) for kind in type(owner).__mro__)
    if not ours or cache_name(parameters) is None:
        return frozenset()
    return frozenset(name for name in CACHE_NAMES if name not in parameters)
