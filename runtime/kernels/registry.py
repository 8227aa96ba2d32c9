"""The table of kernels by name: the shipped and the registered ones."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError
from sparseflow.runtime.kernels.codes import FIRST_REGISTERED

if TYPE_CHECKING:
    from sparseflow.runtime.kernels.base import Kernel, Problem

SHIPPED = {
    "dense": "sparseflow.runtime.kernels.dense:DENSE",
    "cpu": "sparseflow.runtime.kernels.cpu:CPU",
    "cusparselt": "sparseflow.runtime.kernels.cusparselt:CUSPARSELT",
    "skinny": "sparseflow.runtime.kernels.skinny:SKINNY",
    "tiles": "sparseflow.runtime.kernels.tiles:TILES",
    "wide": "sparseflow.runtime.kernels.wide:WIDE",
    "contextual": "sparseflow.runtime.kernels.contextual:CONTEXTUAL",
}
"""The module and attribute of each descriptor. ``csrc/common/kernels.h`` has the same codes."""

_registered: dict[str, Kernel] = {}


def register(kernel: Kernel) -> None:
    """Add a kernel that is implemented in Python; it is then measured, dispatched and shown like the others.

    On a GPU it isn't measured, because the tuner's process imports SparseFlow alone, but policies can name
    it. Programs and artifacts whose policies name it run only in processes that registered it.

    Args:
        kernel: implements `Kernel.product` or `Kernel.linear`, and has a code from 64 to 255.

    Raises:
        ArgumentError: its name or code is taken, or the code is out of bounds.
    """
    subject = f"register({kernel.name!r})"
    if kernel.code is None or not FIRST_REGISTERED <= kernel.code <= 255:
        raise ArgumentError(
            subject, f"its code must be one from {FIRST_REGISTERED} to 255, got {kernel.code}"
        )
    taken = next((k for k in kernels() if k.name == kernel.name or k.code == kernel.code), None)
    if taken is not None:
        raise ArgumentError(subject, f"the kernel '{taken.name}' has that name, or the code {taken.code}")
    from sparseflow.runtime import ops  # here, because it imports torch, which the table doesn't need

    ops.REGISTERED[kernel.code] = kernel.linear
    _registered[kernel.name] = kernel


def unregister(name: str) -> None:
    """Remove a registered kernel; do nothing if none has the name."""
    kernel = _registered.pop(name, None)
    if kernel is not None and kernel.code is not None:
        from sparseflow.runtime import ops

        del ops.REGISTERED[kernel.code]


def names() -> tuple[str, ...]:
    """Return the names of all kernels, the shipped ones first."""
    return (*SHIPPED, *_registered)


def kernels() -> tuple[Kernel, ...]:
    """Return all kernels, in the order of `names`."""
    return (*map(_shipped, SHIPPED), *_registered.values())


def find(name: str) -> Kernel:
    """Return the kernel of a name.

    Raises:
        ArgumentError: there is none; the message lists those that exist.
    """
    if name in SHIPPED:
        return _shipped(name)
    if name not in _registered:
        raise unknown(name)
    return _registered[name]


def by_code(code: int) -> Kernel:
    """Return the kernel with a code.

    Raises:
        ArgumentError: there is none.
    """
    for kernel in kernels():
        if kernel.code == code:
            return kernel
    raise ArgumentError("policy", f"unknown kernel code {code}")


def unknown(name: str) -> ArgumentError:
    """Return the error for an unknown kernel's name; it lists the kernels that policies can name."""
    known = ", ".join(kernel.name for kernel in kernels() if kernel.code is not None)
    return ArgumentError("policy", f"unknown kernel {name!r}; known: {known}")


def sparse_kernels(device_type: str) -> tuple[Kernel, ...]:
    """Return the kernels that policies may name on a type of device, except the dense one."""
    return tuple(
        kernel
        for kernel in kernels()
        if kernel.code is not None and not kernel.dense and kernel.device_type in ("", device_type)
    )


def refusal(problem: Problem, *, anywhere: bool = False) -> str | None:
    """Return why no sparse kernel can run a layer, or None if one can.

    The dense kernel must be able to run it too, because policies may choose the dense product.

    Args:
        problem: the layer.
        anywhere: ask about any machine with such a device, not only this one.
    """
    dense, sparse = find("dense"), sparse_kernels(problem.device_type)
    if not sparse:
        return f"there are no 2:4 kernels for device {problem.device}"
    sparse = tuple(kernel for kernel in sparse if problem.format in kernel.formats)
    if not sparse:
        return f"no kernel for {problem.device_type} reads weights in {problem.format}"
    if why := dense.unsuited(problem) if anywhere else dense.can_implement(problem):
        return why
    reasons = [k.unsuited(problem) if anywhere else k.can_implement(problem) for k in sparse]
    return None if None in reasons else reasons[0]


@functools.cache
def _shipped(name: str) -> Kernel:
    module, _, attribute = SHIPPED[name].partition(":")
    kernel: Kernel = getattr(importlib.import_module(module), attribute)
    return kernel
