"""Copy functions, methods and other callables, with the state in their closures."""

from __future__ import annotations

import contextlib
import dis
import functools
import types
from typing import TYPE_CHECKING

from sparseflow.frontend.state.kinds import cell_content, function_cells, is_shared
from sparseflow.frontend.state.nodes import Owner
from sparseflow.runtime.calling.inference import InferenceModule

if TYPE_CHECKING:
    from sparseflow.frontend.state.clone import Clone


def copy_function(clone: Clone, value: types.FunctionType, path: str, owner: Owner) -> object:
    """Copy a function that holds state in its closure; others are shared."""
    clone.functions.append(value)
    if not _holds_state(clone, value, set()):
        return value
    made = types.FunctionType(
        value.__code__,
        value.__globals__,
        value.__name__,
        value.__defaults__,
        tuple(_empty_cell(clone, cell) for cell in function_cells(value)),
    )
    clone.record(value, made)
    functools.update_wrapper(made, value)
    del made.__wrapped__  # type: ignore[attr-defined]
    made.__dict__.update(value.__dict__)
    made.__kwdefaults__ = value.__kwdefaults__
    for name, cell in zip(value.__code__.co_freevars, function_cells(value), strict=True):
        _fill_cell(clone, cell, f"{path} ({value.__name__}'s {name})", owner)
    return made


def _empty_cell(clone: Clone, cell: types.CellType) -> types.CellType:
    """Return the copy of a closure cell, still empty; it is filled once the functions exist."""
    clone.keep(cell)
    made = clone.recorded(cell)
    if made is None:
        made = types.CellType()
        clone.record(cell, made)
    return made


def _fill_cell(clone: Clone, cell: types.CellType, path: str, owner: Owner) -> None:
    made = clone.recorded(cell)
    if made is None or clone.is_node(cell):
        return
    clone.add(cell, made, path, owner)
    with contextlib.suppress(ValueError):  # it has no value yet
        made.cell_contents = clone.copy(cell.cell_contents, path, owner)


def copy_method(clone: Clone, value: types.MethodType, path: str, owner: Owner) -> object:
    """Bind a method to the copy of its object."""
    if isinstance(value.__self__, InferenceModule) and value.__name__ in ("forward", "__call__"):
        return clone.copy(value.__self__, path, owner)
    function = clone.copy(value.__func__, path, owner)
    bound = clone.copy(value.__self__, path, owner)
    unchanged = function is value.__func__ and bound is value.__self__
    return value if unchanged else types.MethodType(function, bound)


def copy_partial(clone: Clone, value: functools.partial[object], path: str, owner: Owner) -> object:
    """Copy a partial with its function and arguments."""
    function = clone.copy(value.func, path, owner)
    args = [clone.copy(arg, path, owner) for arg in value.args]
    named = {name: clone.copy(arg, path, owner) for name, arg in value.keywords.items()}
    made = functools.partial(function, *args, **named)
    made.__dict__.update(value.__dict__)
    clone.record(value, made)
    return made


def copy_builtin_method(clone: Clone, value: types.BuiltinMethodType, path: str, owner: Owner) -> object:
    """Bind a built-in method to the copy of its object."""
    bound = getattr(value, "__self__", None)
    if bound is None or isinstance(bound, types.ModuleType):
        return value
    made = clone.copy(bound, path, owner)
    return value if made is bound else getattr(made, value.__name__)


def copy_cached(clone: Clone, value: functools._lru_cache_wrapper[object], path: str, owner: Owner) -> object:
    """Copy a memoised function with an empty memo: results of a trace must not be kept."""
    made = functools.lru_cache(**value.cache_parameters())(clone.copy(value.__wrapped__, path, owner))
    clone.record(value, made)
    return made


def _holds_state(clone: Clone, value: object, seen: set[int]) -> bool:
    """Return whether a function holds state that a copy of the model needs its own copy of."""
    if id(value) in seen or is_shared(value):
        return False
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        held = map(cell_content, function_cells(value))
        return any(_holds_state(clone, content, seen) for content in held) or _assigns(value.__code__)
    return clone.copies(value)


@functools.cache
def _assigns(code: types.CodeType) -> bool:
    """Return whether a function may assign one of its nonlocal variables."""
    stores = (i for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "DELETE_DEREF"))
    return any(i.argval in code.co_freevars for i in stores)
