"""Map Torch-dialect operations to PyTorch operators and their operands to arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch._ops import OpOverload
from torch.fx.node import Argument

import sparseflow.runtime.attention.prompt_attention  # noqa: F401  # registers it and decode_attention
from sparseflow.errors import LoweringError
from sparseflow.lowering.enum_codes import DTYPES, LAYOUTS, MEMORY_FORMATS
from sparseflow.runtime.scalars import NATIVE_INT_OPERATORS, SCALAR_FUNCTIONS

_RENAMED = {
    "torch.aten.size.int": "torch.aten.sym_size.int",
    # Results of merged projections are slices, which can't be viewed in another shape.
    "torch.aten.view": "torch.aten.reshape",
    "torch.aten._unsafe_view": "torch.aten.reshape",
    "torch.aten.Float.Scalar": "torch.sym.sym_float",
    "torch.aten.Bool.Tensor": "torch.aten.item",
}
_ENUMERATIONS: dict[str, Mapping[int, Argument]] = {
    "ScalarType": DTYPES,
    "Layout": LAYOUTS,
    "MemoryFormat": MEMORY_FORMATS,
}


@cache
def find_operator(name: str) -> Callable[..., object]:
    """Return the callable behind the MLIR name of an operation.

    Args:
        name: such as `torch.aten.add.Tensor`, `torch.sparseflow.linear`, `torch.sym.mod`.

    Raises:
        LoweringError: there is none.
    """
    parts = _RENAMED.get(name, name).split(".")
    if len(parts) < 3:
        raise LoweringError(name, "it isn't a PyTorch operator", "name it torch.<namespace>.<operator>")
    _, namespace, *rest = parts
    if namespace == "sym" and rest[0] in SCALAR_FUNCTIONS:
        return SCALAR_FUNCTIONS[rest[0]]
    if namespace == "aten" and len(rest) == 2 and rest[1] == "int" and rest[0] in NATIVE_INT_OPERATORS:
        return SCALAR_FUNCTIONS[rest[0]]
    packet = getattr(getattr(torch.ops, namespace), rest[0], None)
    overload = getattr(packet, rest[1] if len(rest) > 1 else "default", None)
    if overload is None:
        raise LoweringError(name, "PyTorch has no such operator", "load the library that registers it")
    found: Callable[..., object] = overload
    return found


def arguments(
    target: Callable[..., object], operands: Sequence[Argument]
) -> tuple[tuple[Argument, ...], dict[str, Argument]]:
    """Convert operands, in schema order, to positional and keyword arguments of `target`.

    Integer codes of dtypes, layouts and memory formats are decoded. Keyword-only arguments are passed by
    keyword. Arguments at the end that have their default value are left out.
    """
    if not isinstance(target, OpOverload):
        return tuple(operands), {}
    parameters = target._schema.arguments
    if len(parameters) != len(operands):
        raise TypeError(f"{target} takes {len(parameters)} operands, not {len(operands)}")
    positional: list[Argument] = []
    keyword: dict[str, Argument] = {}
    required = 0
    for parameter, operand in zip(parameters, operands, strict=True):
        value = _decode(parameter, operand)
        is_default = _is_default(parameter, value)
        if parameter.kwarg_only:
            if not is_default:
                keyword[parameter.name] = value
            continue
        positional.append(value)
        if not is_default:
            required = len(positional)
    return tuple(positional[:required]), keyword


def _decode(parameter: torch.Argument, value: Argument) -> Argument:
    kind = str(parameter.real_type).removeprefix("Optional[").removesuffix("]")
    table = _ENUMERATIONS.get(kind)
    return table[value] if table is not None and isinstance(value, int) else value


def _is_default(parameter: torch.Argument, value: Argument) -> bool:
    if not parameter.has_default_value() or isinstance(value, torch.fx.Node):
        return False
    default = _decode(parameter, parameter.default_value)
    return type(default) is type(value) and bool(default == value)
