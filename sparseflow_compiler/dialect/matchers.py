"""Small typed questions about IR: what defines a value, which constant it is, which weight it reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.dialect.base import number_of, part_sizes, string_list_attribute, text_of, transposed_flags


def operations(module: ir.Module, names: Collection[str]) -> list[ir.Operation]:
    """Every operation of these names, nested ones too, in program order."""
    found: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.name in names:
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return found


def users(value: ir.Value) -> list[ir.Operation]:
    """The operations that read a value, one entry a use."""
    return [use.owner.operation for use in value.uses]


def only_reader(value: ir.Value) -> ir.Operation | None:
    """The one operation that reads a value, once, in its block and keeping its type."""
    readers = users(value)
    if len(readers) != 1 or len(readers[0].results) != 1:
        return None
    reader = readers[0]
    home = value.owner if isinstance(value.owner, ir.Block) else value.owner.operation.block
    return reader if reader.results[0].type == value.type and reader.block == home else None


def defined_by(value: ir.Value, *names: str) -> ir.Operation | None:
    """The operation that makes a value, if it has one of these names."""
    owner = value.owner
    if isinstance(owner, ir.Block):
        return None
    op = owner.operation
    return op if op.name in names else None


def constant_int(value: ir.Value) -> int | None:
    """The value of a ``torch.constant.int``, None for anything else."""
    op = defined_by(value, "torch.constant.int")
    return None if op is None else int(number_of(op))


def known_bool(value: ir.Value) -> bool | None:
    """The value of a ``torch.constant.bool``, None for anything else."""
    op = defined_by(value, "torch.constant.bool")
    return None if op is None else bool(number_of(op))


def is_none(value: ir.Value) -> bool:
    """Whether a value is ``torch.constant.none``."""
    return defined_by(value, "torch.constant.none") is not None


def constant_ints(value: ir.Value) -> list[int | None] | None:
    """The elements of a ``torch.prim.ListConstruct``, None for each that isn't a constant int."""
    op = defined_by(value, "torch.prim.ListConstruct")
    return None if op is None else [constant_int(element) for element in op.operands]


@dataclass(frozen=True)
class WeightRef:
    """What a weight operand reads from the weight source.

    Attributes:
        op: the ``weight`` or ``merged_weight``.
        names: tensors whose rows it consists of, in order.
        transposed: for each name whether it is read transposed.
        sizes: rows of each of several parts, empty when unknown.
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
    """The name of the layer that a weight belongs to."""
    return weight_name.removesuffix(".weight")


def weight_ref(value: ir.Value) -> WeightRef | None:
    """What a value reads from the weight source, None when it is computed."""
    op = defined_by(value, "sparse_gemm.weight", "sparse_gemm.merged_weight")
    if op is None:
        return None
    if op.name == "sparse_gemm.weight":
        return WeightRef(op, (text_of(op, "name"),), ("transposed" in op.attributes,), ())
    names = string_list_attribute(op, "names") or ()
    return WeightRef(op, names, transposed_flags(op, names) or (), part_sizes(op, names) or ())


def weights_of(layers: Iterable[ir.Operation]) -> dict[str, bool]:
    """The tensors that layers have as their weights, and whether each reads it transposed."""
    found: dict[str, bool] = {}
    for layer in layers:
        if (ref := weight_ref(layer.operands[1])) is not None:
            found |= dict(zip(ref.names, ref.transposed, strict=True))
    return found
