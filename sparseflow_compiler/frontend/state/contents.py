"""Read the contents of mutable values, and restore them in place."""

from __future__ import annotations

import types
from collections import OrderedDict, deque

from sparseflow.frontend.state.kinds import STREAMS, attributes, cell_content, digest

Content = dict[object, object]
"""The contents of a value by key of a dict, index, or name of an attribute."""


def content(value: object) -> Content:
    """Return the entries of a container or object, by key, index or attribute."""
    if isinstance(value, dict):
        return dict(_own_methods(value).items(value))
    if isinstance(value, (list, deque)):
        return dict(enumerate(value))
    if isinstance(value, set):
        return dict.fromkeys(value, True)
    if isinstance(value, types.CellType):
        return {"": cell_content(value)}
    if isinstance(value, STREAMS):
        return {"": digest(value)}
    held: Content = dict(attributes(value).items())
    return held


def refill(value: object, held: Content) -> None:
    """Restore the contents that `content` returned; streams keep their position."""
    if isinstance(value, dict):
        _own_methods(value).clear(value)
        for key, item in held.items():
            _own_methods(value).__setitem__(value, key, item)
    elif isinstance(value, (list, deque)):
        value.clear()
        value.extend(held.values())
    elif isinstance(value, set):
        value.clear()
        value.update(held)
    elif isinstance(value, types.CellType):
        value.cell_contents = held[""]
    elif not isinstance(value, STREAMS):
        for name in attributes(value).keys() - held.keys():
            object.__delattr__(value, name)
        for key, item in held.items():
            object.__setattr__(value, str(key), item)


def _own_methods(value: dict[object, object]) -> type[dict[object, object]]:
    """Return the built-in class whose methods access the raw contents; a subclass may override them."""
    return OrderedDict if isinstance(value, OrderedDict) else dict


def copied(value: object) -> object:
    """Return a deep copy of lists and dicts; anything else is returned itself."""
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) is list:
        return list(map(copied, value))
    return tuple(map(copied, value)) if type(value) is tuple else value
