"""Views that keep the rows ``[…, K]`` of a tensor and only regroup its leading dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from torch_mlir import ir

from sparseflow.dialect.matchers import constant_int, defined_by, known_bool, users
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.passes.ir_builder import erase_if_dead, int_list, replace, torch_op
from sparseflow.passes.sizes import KnownSizes

VIEWS = ("torch.aten.view", "torch.aten.reshape", "torch.aten._unsafe_view")
"""Operations that give a tensor the sizes in a list."""

_FLATTENS = (*VIEWS, "torch.aten.flatten.using_ints")


def keeps_rows(value: ir.Value) -> ir.Value | None:
    """Return the source of a view that keeps rows, or None for anything else.

    Equal static last dimensions suffice: elements keep their order, so rows stay whole.
    """
    op = defined_by(value, *_FLATTENS)
    if op is None:
        return None
    source, flat = tensor_type(op.operands[0]), tensor_type(value)
    if source is None or flat is None or source.shape is None or flat.rank != 2 or len(source.shape) < 3:
        return None
    return op.operands[0] if source.dim(-1) and source.dim(-1) == flat.dim(-1) else None


def restore_rows(value: ir.Value, n: int, flat: ir.Type) -> ir.Value:
    """View ``[…, n]`` as the matrix type it is expected to have."""
    return torch_op("torch.aten.view", [value, int_list([-1, n])], flat)


def drop_views_of(value: ir.Value, flat: ir.Value) -> None:
    """Rewire views of a flattened value to the value itself and drop those that restore its shape."""
    for op in users(flat):
        if op.name in VIEWS and op.operands[0] == flat:
            op.operands[0] = value
            if _is_identity(op, value):
                replace(op, value)
    if not isinstance(flat.owner, ir.Block):
        erase_if_dead(flat.owner.operation)


def returns_its_input(op: ir.Operation, sizes: KnownSizes) -> bool:
    """Return whether an operation is a view to the same shape, or inactive dropout."""
    if op.name in VIEWS:
        return sizes.equal(op.operands[0], op.results[0])
    if op.name != "torch.aten.dropout":
        return False
    return known_bool(op.operands[2]) is False


def _is_identity(view: ir.Operation, value: ir.Value) -> bool:
    before, after = tensor_type(value), tensor_type(view.results[0])
    sizes = defined_by(view.operands[1], "torch.prim.ListConstruct")
    if before is None or before.shape is None or before != after or sizes is None:
        return False
    if len(sizes.operands) != len(before.shape):
        return False
    return _one_dim_open(before) or _sizes_of(list(sizes.operands), before, _leading_sources(value))


def _one_dim_open(type_: TensorType) -> bool:
    """Return whether the types alone prove equal shapes, the element count fixing one dynamic size."""
    shape = type_.shape or ()
    return 0 not in shape and shape.count(None) <= 1


def _leading_sources(value: ir.Value) -> tuple[ir.Value, ...]:
    """Return values with the same leading dimensions: itself and, for a layer, its input."""
    layer = defined_by(value, "torch.aten.linear")
    return (value,) if layer is None else (value, layer.operands[0])


def _sizes_of(sizes: Sequence[ir.Value], type_: TensorType, sources: tuple[ir.Value, ...]) -> bool:
    """Return whether each dynamic size equals the same dimension of a source; one may be -1."""
    dynamic = [index for index, dim in enumerate(type_.shape or ()) if dim is None]
    unknown = [sizes[index] for index in dynamic if not _is_size_of(sizes[index], index, sources)]
    return not unknown or (len(unknown) == 1 and constant_int(unknown[0]) == -1)


def _is_size_of(size: ir.Value, index: int, sources: tuple[ir.Value, ...]) -> bool:
    op = defined_by(size, "torch.aten.size.int")
    return op is not None and op.operands[0] in sources and constant_int(op.operands[1]) == index
