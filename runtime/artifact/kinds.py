"""The classes that an artifact names: found among those already here, never imported for it."""

from __future__ import annotations

import functools
import sys
from collections import namedtuple
from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils import _pytree as pytree

from sparseflow.errors import ArtifactError
from sparseflow.runtime.calling.caches import known_name, of_transformers


def qualified(kind: type) -> str:
    """The name of a class: ``module:Class``. A stand-in has the name of what it stands for."""
    name: str = vars(kind).get("stands_for") or f"{kind.__module__}:{kind.__qualname__}"
    return name


class Kinds:
    """Finds classes by their names.

    A container that torch's pytrees know is itself. An object, such as a cache, is rebuilt without its
    constructor, which only classes of transformers are trusted with, and `given` ones. For every other
    name there is a stand-in with the same fields.

    Args:
        given: classes that the caller vouches for.
    """

    def __init__(self, given: Iterable[type] = ()) -> None:
        self._given = {qualified(kind): kind for kind in given}
        registered = [kind for kind in pytree.SUPPORTED_NODES if isinstance(kind, type)]
        self._registered = {qualified(k): k for k in registered if not k.__module__.startswith("torch.")}

    def container(self, name: str) -> type | None:
        """The class of a container that torch's pytrees know here; None for what they don't."""
        return self._registered.get(name)

    def named_tuple(self, name: str, fields: Sequence[str]) -> type:
        """The class of a named tuple; a stand-in unless it was given."""
        return self._given.get(name) or _named_tuple(name, tuple(fields))

    def plain(self, name: str) -> type:
        """The class of an object that is taken apart by its attributes."""
        return self._given.get(name) or _of_transformers(name) or standing_object(name)


def _of_transformers(name: str) -> type | None:
    module, _, attribute = name.partition(":")
    if not of_transformers(module):
        return None
    found = vars(sys.modules.get(module, object())).get(attribute) if module in sys.modules else None
    # A finaliser would act on attributes that the artifact chose.
    return found if isinstance(found, type) and not hasattr(found, "__del__") else None


class Record(dict[str, Any]):
    """An output whose class is not imported here: fields by name, as attributes, and by place.

    The cache in it has all the names that versions of transformers have for it.
    """

    stands_for: str

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self.stands_for} has no field {name!r}") from None

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return super().__getitem__(known_name(key, self.keys()))
        return self.to_tuple()[key]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(known_name(key, self.keys()) if isinstance(key, str) else key)

    def to_tuple(self) -> tuple[object, ...]:
        """The fields in order."""
        return tuple(self.values())


class Attributes:
    """An object whose class is not imported here: its attributes, without its methods."""

    stands_for: str

    def __repr__(self) -> str:
        return f"<attributes of {self.stands_for}: {', '.join(vars(self))}>"


@functools.cache
def standing_record(name: str) -> type[Record]:
    """The one stand-in for a container class, known to torch's pytrees."""
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
    """The one stand-in for a class of objects: what a program returned fits where it takes such an object."""
    return type(_class_name(name), (Attributes,), {"stands_for": name})


@functools.cache
def _named_tuple(name: str, fields: tuple[str, ...]) -> type:
    kind = namedtuple(_class_name(name), fields)  # type: ignore[misc]  # the fields are those of the artifact
    kind.stands_for = name  # type: ignore[attr-defined]
    return kind


def _class_name(name: str) -> str:
    last = name.rpartition(":")[2].rpartition(".")[2]
    if not last.isidentifier():
        raise ArtifactError("class", f"{name!r:.80} is no name of a class", "save the model again")
    return last
