"""Record what a compiled step does on a CPU, and play it without Python: what a CUDA graph is on a GPU.

Inductor's function is a straight line of allocations, kernels and operators over tensors of known sizes. Run
with other globals, which note each of these, it writes a tape: C functions and our operators, each with the
memory that it reads and writes. A function that uses anything else isn't recorded.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import sparseflow.runtime.ops  # noqa: F401  registers torch.ops.sparseflow.*

OPERATORS = ("linear", "linear_4_6", "linear_6_8", "dense_rows", "decode_attention", "column_linear")
"""Those of `torch.ops.sparseflow` that can be recorded."""

DTYPES = ("float32", "bfloat16", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
ALLOCATIONS = ("empty_strided_cpu", "reinterpret_tensor")
HARMLESS = {"torch", "ops", "sparseflow", "default", "clear", *DTYPES, *ALLOCATIONS, *OPERATORS}
"""The names that a function may use besides its kernels."""

_OPS: Any = torch.ops.sparseflow


@dataclass
class Tape:
    """What a step does, with the memory that it does it to.

    Attributes:
        address: of the native tape, which is freed with this object.
        held: all tensors that it reads and writes.
    """

    address: int
    held: list[Tensor] = field(default_factory=list, repr=False)

    def play(self) -> None:
        """Do it again.

        Raises:
            RuntimeError: a kernel refuses what it reads, such as an index out of bounds.
        """
        _OPS.tape_play(self.address)

    def __del__(self) -> None:
        """Free the native tape."""
        _OPS.tape_free(self.address)


@dataclass(frozen=True)
class Function:
    """Inductor's function, as it was called.

    Attributes:
        code: of the function.
        globals: that it reads.
        args: its tensors.
    """

    code: CodeType
    globals: dict[str, Any]
    args: list[Any]

    @property
    def kernels(self) -> list[str]:
        """The names of the kernels that it calls."""
        return [name for name in self.code.co_names if name.startswith("cpp_fused")]

    def why_not(self, known: Iterable[object]) -> str:
        """Return why it can't be recorded; empty if it can.

        Args:
            known: what stays where it is from step to step; all that the function reads must be among it.
        """
        others = set(self.code.co_names) - HARMLESS - set(self.kernels)
        if others or any(isinstance(constant, CodeType) for constant in self.code.co_consts):
            return f"it uses {', '.join(sorted(others)) or 'a function of its own'}"
        owners = [getattr(self.globals[name], "__self__", None) for name in self.kernels]
        if not all(hasattr(owner, "__file__") for owner in owners):
            return "a kernel is no function of a library"
        lasting = {t.untyped_storage().data_ptr() for t in known if isinstance(t, Tensor)}
        for arg in self.args:
            if not isinstance(arg, Tensor) or arg.untyped_storage().data_ptr() not in lasting:
                return "it reads what is made anew for every step"
        return ""


def watched(run: Callable[..., object], *tensors: object) -> Function | str:
    """Run a compiled step; return inductor's function in it, or why there is none to record."""
    found: list[Function] = []

    def see(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "call" and "args" in frame.f_locals:
            function = Function(frame.f_code, frame.f_globals, list(frame.f_locals["args"]))
            found.extend([function] if function.kernels else [])

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        run(*tensors)
    finally:
        sys.setprofile(before)
    return found[0] if len(found) == 1 else f"inductor made {len(found)} functions of it"


def recorded(function: Function) -> Tape | str:
    """Run a function that has no `why_not` once more; return its tape, or why that can't be played."""
    tape = Tape(_OPS.tape_begin(), list(function.args))
    numbers = list[str]()
    again = FunctionType(function.code, _globals(function, tape.held, numbers))
    takes_self = function.code.co_varnames[0] == "self"
    try:
        result: Any = again(*([None] if takes_self else []), list(function.args))
    finally:
        reason: str = _OPS.tape_end(tape.address)
    if len(result):
        return "it returns tensors"
    return reason or next(iter(numbers), "") or tape


def _globals(function: Function, held: list[Tensor], numbers: list[str]) -> dict[str, Any]:
    """Return the only names that the function finds.

    They keep in `held` each tensor that passes, and say in `numbers` which kernels take anything else.
    """

    def keeping(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def kept(*args: object, **kwargs: object) -> Tensor:
            held.append(make(*args, **kwargs))
            return held[-1]

        return kept

    operators = {name: SimpleNamespace(default=keeping(getattr(_OPS, name).default)) for name in OPERATORS}
    dtypes = {name: getattr(torch, name) for name in DTYPES}
    return {
        "__builtins__": {},
        "torch": SimpleNamespace(ops=SimpleNamespace(sparseflow=SimpleNamespace(**operators)), **dtypes),
        **{n: keeping(function.globals[n]) for n in ALLOCATIONS if n in function.globals},
        **{name: _recording(name, function.globals[name], numbers) for name in function.kernels},
    }


def _recording(name: str, kernel: Any, numbers: list[str]) -> Callable[..., object]:
    """Return a kernel that puts itself on the tape too."""
    library = ctypes.CDLL(kernel.__self__.__file__)
    address = ctypes.cast(library.kernel, ctypes.c_void_p).value

    def call(*args: object) -> object:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if len(tensors) < len(args):
            numbers.append(f"{name} takes a number")
        _OPS.tape_kernel(address, [tensor.data_ptr() for tensor in tensors])
        return kernel(*args)

    return call
