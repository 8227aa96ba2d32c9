"""Small typed queries of IR: the definition of a value, its constant, the weight that it reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.dialect.base import number_of, part_sizes, string_list_attribute, text_of, transposed_flags


def operations(module: ir.Module, names: Collection[str]) -> list[ir.Operation]:
    """Return every operation with one of these names, nested ones included, in program order."""
    found: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name in names:
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return found


def users(value: ir.Value) -> list[ir.Operation]:
    """Return the operations that read a value, one entry for each use."""
    return [use.owner.operation for use in value.uses]


def only_reader(value: ir.Value) -> ir.Operation | None:
    """Return the only user of a value, or None; it must be in the same block and keep the type."""
    readers = users(value)
    if len(readers) != 1 or len(readers[0].results) != 1:
        return None
    reader = readers[0]
    home = value.owner if isinstance(value.owner, ir.Block) else value.owner.operation.block
    return reader if reader.results[0].type == value.type and reader.block == home else None


def defined_by(value: ir.Value, *names: str) -> ir.Operation | None:
    """Return the operation that produces a value if it has one of these names, else None."""
    owner = value.owner
    if isinstance(owner, ir.Block):
        return None
    op = owner.operation
    return op if op.name in names else None


def constant_int(value: ir.Value) -> int | None:
    """Return the value of a ``torch.constant.int``; None for anything else."""
    op = defined_by(value, "torch.constant.int")
    return None if op is None else int(number_of(op))


def known_bool(value: ir.Value) -> bool | None:
    """Return the value of a ``torch.constant.bool``; None for anything else."""
    op = defined_by(value, "torch.constant.bool")
    return None if op is None else bool(number_of(op))


def is_none(value: ir.Value) -> bool:
    """Return whether a value is ``torch.constant.none``."""
    return defined_by(value, "torch.constant.none") is not None


def constant_ints(value: ir.Value) -> list[int | None] | None:
    """Return the elements of a ``torch.prim.ListConstruct``, None for each that isn't a constant int.

    Returns:
        None for anything but a list.
    """
    op = defined_by(value, "torch.prim.ListConstruct")
    return None if op is None else [constant_int(element) for element in op.operands]


@dataclass(frozen=True)
class WeightRef:
    """A reference to weights, as the operand of an operation.

    Attributes:
        op: the ``weight`` or ``merged_weight``.
        names: the tensors whose rows it concatenates, in order.
        transposed: for each name whether it is read transposed.
        sizes: the rows of each part of a ``merged_weight``; empty if unknown.
    """

    op: ir.Operation
    names: tuple[str, ...]
    transposed: tuple[bool, ...]
    sizes: tuple[int, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers: those of the tensors without the suffix ``.weight``."""
        return tuple(map(layer_name, self.names))


def layer_name(weight_name: str) -> str:
    """Return the name of the layer that a weight belongs to."""
    return weight_name.removesuffix(".weight")


def weight_ref(value: ir.Value) -> WeightRef | None:
    """Return the weight reference that a value is; None if the value is computed."""
    op = defined_by(value, "sparse_gemm.weight", "sparse_gemm.merged_weight")
    if op is None:
        return None
    if op.name == "sparse_gemm.weight":
        return WeightRef(op, (text_of(op, "name"),), ("transposed" in op.attributes,), ())
    names = string_list_attribute(op, "names") or ()
    return WeightRef(op, names, transposed_flags(op, names) or (), part_sizes(op, names) or ())


def weights_of(layers: Iterable[ir.Operation]) -> dict[str, bool]:
    """Return the names of the layers' weights, each with whether it is read transposed."""
    found: dict[str, bool] = {}
    for layer in layers:
        if (ref := weight_ref(layer.operands[1])) is not None:
            found |= dict(zip(ref.names, ref.transposed, strict=True))
    return found
