"""The model's methods on a compiled model: those that call its forward run compiled, others run densely."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import re
from collections.abc import Iterator
from types import MethodType
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError, DenseWarning
from sparseflow.execution.routing import DenseWatch, compiled_forward
from sparseflow.support.user_warnings import warn

if TYPE_CHECKING:
    from sparseflow.api.view import ModelView

_WRITES = re.compile("save_|push_to_hub|to_disk")
_CHANGES = re.compile(
    "set_|add_|load_|delete_|resize_|prune_|tie_|init_weights|post_init|initialize_weights|merge_|unmerge_|unload"
    "|enable_|disable_|dequantize|gradient_checkpointing|fit$|old_fit|unfreeze|freeze|reverse_bettertransformer"
)
_FEATURES = re.compile("get_[a-z]+_features|get_[a-z]+_embeddings?_features|get_[a-z]+_embeds")
_DENSE = re.compile("generate_batch|init_continuous_batching|continuous_batching")
"""Methods that replace attention by a paged one while they run, which captured programs don't see."""

_ABSENT = object()


def method(compiled: ModelView, name: str, found: object) -> object:
    """Return an attribute of the model as the compiled model has it; a method runs the compiled forward.

    Methods that change the model or save it raise when they are called.
    """
    if not inspect.ismethod(found) or found.__self__ is not compiled.model_behind:
        return found
    if _WRITES.match(name) or _CHANGES.match(name):
        return functools.partial(_refuse, compiled, name)
    if _FEATURES.fullmatch(name):
        return compiled.part(name, found)

    @functools.wraps(found)
    def call(*args: object, **kwargs: object) -> object:
        if _DENSE.match(name):
            compiled.runs_densely(name)
            return found(*args, **kwargs)
        return _call(compiled, name, found, args, kwargs)

    return call


def _refuse(compiled: ModelView, name: str, *args: object, **kwargs: object) -> object:
    if _WRITES.match(name):
        raise ArgumentError(
            f"compiled {type(compiled.model_behind).__name__}.{name}()",
            "it would write the model as it was before it was compiled",
            "compiled.save(path) writes what was compiled; sf.prune(model), sf.nn.sparsify(model) and "
            f"model.{name}() write a checkpoint that is pruned and packed",
        )
    raise ArgumentError(
        f"compiled {type(compiled.model_behind).__name__}.{name}()",
        "it changes the model, and not the programs that were compiled of it",
        f"call it on the original model: model.{name}(…), and compile that again",
    )


def _call(
    compiled: ModelView, name: str, found: MethodType, args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Call a method on a shallow copy of the model with the compiled forward; keep what it sets."""
    model = compiled.model_behind
    routed = copy.copy(model)
    before = dict(vars(routed))
    vars(routed)["forward"] = compiled_forward(model, compiled.forward)
    with _watched(compiled, name):
        result = MethodType(found.__func__, routed)(*args, **kwargs)
    for key, value in vars(routed).items():
        if key != "forward" and before.get(key, _ABSENT) is not value:
            vars(model)[key] = value
    return result


@contextlib.contextmanager
def _watched(compiled: ModelView, name: str) -> Iterator[None]:
    """Warn if the first call of a method runs linear layers of the original model."""
    if name in compiled.watched_methods:
        yield
        return
    with DenseWatch() as watch:
        yield
    compiled.watched_methods.add(name)
    if watch.dense:
        compiled.runs_densely(name)


def warn_dense(kind: str, name: str) -> None:
    """Warn, once for each line that calls it, that a method runs the original layers."""
    warn(
        f"{kind}.{name}() runs layers outside of its forward: these are not compiled, and run densely "
        "and unpruned. Prune the model first (sf.prune), or compile the part that it calls",
        DenseWarning,
    )
