"""What the runtime knows of transformers, which it never imports: names and classes of its caches."""

from __future__ import annotations

from collections.abc import Container

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""Names of the cache that a model takes and returns: the first since transformers 5.24, the others before."""


def is_cache(value: object) -> bool:
    """Whether a value is a cache of transformers, of whatever class."""
    kind = type(value)
    return kind.__name__.endswith("Cache") and of_transformers(kind.__module__)


def of_transformers(module: str) -> bool:
    """Whether a module, by its name, is one of transformers."""
    return module.partition(".")[0] == "transformers"


def known_name(name: str, known: Container[str]) -> str:
    """A name as it is called among the known ones, where it is that of a cache; otherwise as it is."""
    if name in known or name not in CACHE_NAMES:
        return name
    return cache_name(known) or name


def cache_name(known: Container[str]) -> str | None:
    """The name of the cache among parameters or fields, None where there is none."""
    return next((name for name in CACHE_NAMES if name in known), None)


def other_cache_names(owner: object, parameters: Container[str]) -> frozenset[str]:
    """Names under which a transformers model takes its cache besides that of its parameter.

    Args:
        owner: the model.
        parameters: those of its forward.
    """
    ours = any(of_transformers(kind.__module__) for kind in type(owner).__mro__)
    if not ours or cache_name(parameters) is None:
        return frozenset()
    return frozenset(name for name in CACHE_NAMES if name not in parameters)
