"""Resolve class names of artifacts among already imported classes; never import for them."""

from __future__ import annotations

import functools
import sys
from collections import namedtuple
from collections.abc import Iterable, Sequence

from torch.utils import _pytree as pytree

from sparseflow.errors import ArtifactError
from sparseflow.runtime.calling.cache_names import known_name, of_transformers


def qualified(kind: type) -> str:
    """Return the name of a class: ``module:Class``. A stand-in has its original's name."""
    name: str = vars(kind).get("stands_for") or f"{kind.__module__}:{kind.__qualname__}"
    return name


class ClassLookup:
    """Find classes by name.

    Containers registered with torch's pytrees are used as they are. An object, such as a cache, is rebuilt
    without its constructor, which is only allowed for classes of transformers and `given` ones. Every other
    name gets a stand-in with the same fields.

    Args:
        given: classes that the caller trusts.
    """

    def __init__(self, given: Iterable[type] = ()) -> None:
        self._given = {qualified(kind): kind for kind in given}
        registered = [kind for kind in pytree.SUPPORTED_NODES if isinstance(kind, type)]
        self._registered = {qualified(k): k for k in registered if not k.__module__.startswith("torch.")}

    def container(self, name: str) -> type | None:
        """Return the class of a container registered with torch's pytrees, or None."""
        return self._registered.get(name)

    def named_tuple(self, name: str, fields: Sequence[str]) -> type:
        """Return the class of a named tuple, or a stand-in if it wasn't given."""
        return self._given.get(name) or _named_tuple(name, tuple(fields))

    def plain(self, name: str) -> type:
        """Return the class of an object that is flattened by its attributes."""
        return self._given.get(name) or _of_transformers(name) or standing_object(name)


def _of_transformers(name: str) -> type | None:
    module, _, attribute = name.partition(":")
    if not of_transformers(module):
        return None
    found = vars(sys.modules.get(module, object())).get(attribute) if module in sys.modules else None
    # A finaliser would run on attributes that the artifact chose.
    return found if isinstance(found, type) and not hasattr(found, "__del__") else None


class Record(dict[str, object]):
    """Stand-in for an output class that isn't imported: fields by name, attribute and index.

    Its cache is available under the names of all transformers versions.
    """

    stands_for: str

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self.stands_for} has no field {name!r}") from None

    def __getitem__(self, key: str | int | slice) -> object:
        if isinstance(key, str):
            return super().__getitem__(known_name(key, self.keys()))
        return self.to_tuple()[key]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(known_name(key, self.keys()) if isinstance(key, str) else key)

    def to_tuple(self) -> tuple[object, ...]:
        """Return the fields in order."""
        return tuple(self.values())


class Attributes:
    """Stand-in for an object whose class isn't imported: attributes without methods."""

    stands_for: str

    def __repr__(self) -> str:
        return f"<attributes of {self.stands_for}: {', '.join(vars(self))}>"


@functools.cache
def standing_record(name: str) -> type[Record]:
    """Return the unique stand-in for a container class, registered with torch's pytrees."""
    kind = type(_class_name(name), (Record,), {"stands_for": name})
    pytree.register_pytree_node(
        kind,
        lambda record: (list(record.values()), list(record)),
        lambda values, keys: kind(zip(keys, values, strict=True)),
        flatten_with_keys_fn=lambda record: (
            [(pytree.MappingKey(key), value) for key, value in record.items()],
            list(record),
        ),
    )
    return kind


@functools.cache
def standing_object(name: str) -> type[Attributes]:
    """Return the unique stand-in for a class, so that results can be passed back as arguments."""
    return type(_class_name(name), (Attributes,), {"stands_for": name})


@functools.cache
def _named_tuple(name: str, fields: tuple[str, ...]) -> type:
    kind = namedtuple(_class_name(name), fields)  # type: ignore[misc]  # the fields are those of the artifact
    kind.stands_for = name  # type: ignore[attr-defined]
    return kind


def _class_name(name: str) -> str:
    last = name.rpartition(":")[2].rpartition(".")[2]
    if not last.isidentifier():
        raise ArtifactError("class", f"{name!r:.80} isn't a class name", "save the model again")
    return last
