"""Notice a model's own code that asks torch whether gradients are recorded."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch._dynamo import assume_constant_result

from sparseflow.frontend.library_files import is_library_file
from sparseflow.frontend.state.kinds import library_of
from sparseflow.frontend.state.surroundings import names_of

_LIBRARIES = ("torch", "transformers", "sparseflow")
_WITHOUT_TORCH = frozenset({"mpmath", "networkx", "numpy", "scipy", "sympy"})
"""Packages that import no torch; with Python's own, four of five names in a process are theirs."""
_DISPATCHING = ("torch.overrides", "torch._tensor")
_QUESTIONS = (torch.is_grad_enabled, torch.is_inference_mode_enabled)


@contextmanager
def mode_questions_noted(note: Callable[[], None]) -> Iterator[None]:
    """Call `note` in a `with` block for each question of the model's own code in this thread.

    The questions are no functions of a tensor, which a TorchFunctionMode would see: they are replaced in
    torch and in every module that has imported them, under whatever name. So is the `apply` of
    differentiable functions, whose forward may look at ``ctx.needs_input_grad``.
    """
    thread = threading.get_ident()
    function = torch.autograd.Function
    apply = vars(function)["apply"]
    replaced = [
        (table, name, real, _noting(real, thread, note)) for table, name, real in _holders(_QUESTIONS)
    ]

    @functools.wraps(apply.__func__)
    def noting_apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread and _reads_needs_input_grad(cls):
            note()
        return apply.__func__(cls, *args, **kwargs)

    try:
        for table, name, _, noting in replaced:
            table[name] = noting
        setattr(function, "apply", classmethod(noting_apply))  # noqa: B010  # mypy takes it for a method
        yield
    finally:
        setattr(function, "apply", apply)  # noqa: B010
        for table, name, real, _ in replaced:
            table[name] = real


def asked_by_the_model(frame: FrameType | None) -> bool:
    """Return whether a frame is of the model's own code, or one of torch's methods that this calls."""
    while frame is not None and frame.f_globals.get("__name__") in _DISPATCHING:
        frame = frame.f_back
    if frame is None or str(frame.f_globals.get("__name__", "")).split(".")[0] in _LIBRARIES:
        return False
    file = frame.f_code.co_filename
    return file.startswith("<") or not is_library_file(file)


def _noting(real: Callable[[], bool], thread: int, note: Callable[[], None]) -> Callable[[], bool]:
    def answer() -> bool:
        if threading.get_ident() == thread and asked_by_the_model(sys._getframe(1)):
            note()
        return real()

    found: Callable[[], bool] = assume_constant_result(answer)  # type: ignore[no-untyped-call]
    return found


def _holders(values: tuple[object, ...]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield the namespaces of torch and of others' modules that hold a function, its name there, and it."""
    wanted = set(map(id, values))
    for module_name, module in list(sys.modules.items()):
        if module is torch or not _asks_never(module_name, module):
            table = getattr(module, "__dict__", {})
            # Nearly none does: a loop over the hundred thousand names is left to C.
            if not wanted.isdisjoint(map(id, list(table.values()))):
                yield from ((table, name, held) for name, held in list(table.items()) if id(held) in wanted)


def _asks_never(name: str, module: object) -> bool:
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names:  # a user's file may have such a name
        file = getattr(module, "__file__", None)
        return file is None or is_library_file(file)
    return package in _LIBRARIES or package in _WITHOUT_TORCH


def _reads_needs_input_grad(function: type[torch.autograd.Function]) -> bool:
    """Return whether the forward of a differentiable function of the model's own reads it."""
    written = (getattr(function, name, None) for name in ("forward", "setup_context"))
    codes = (getattr(part, "__code__", None) for part in written)
    return library_of(function) not in _LIBRARIES and any(
        "needs_input_grad" in names_of(code) for code in codes if code is not None
    )
