"""Create and remove operations of the Torch dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch_mlir import ir

_REMOVABLE = frozenset(
    {
        "sparse_gemm.column_linear",
        "sparse_gemm.contextual_mlp",
        "sparse_gemm.decode_attention",
        "sparse_gemm.linear",
        "sparse_gemm.merged_weight",
        "sparse_gemm.weight",
        "torch.aten._unsafe_view",
        "torch.aten.add.Scalar",
        "torch.aten.add.Tensor",
        "torch.aten.addmm",
        "torch.aten.chunk",
        "torch.aten.dropout",
        "torch.aten.expand",
        "torch.aten.flatten.using_ints",
        "torch.aten.gelu",
        "torch.aten.linear",
        "torch.aten.matmul",
        "torch.aten.mm",
        "torch.aten.mul.Scalar",
        "torch.aten.mul.Tensor",
        "torch.aten.numpy_T",
        "torch.aten.permute",
        "torch.aten.pow.Tensor_Scalar",
        "torch.aten.relu",
        "torch.aten.reshape",
        "torch.aten.scaled_dot_product_attention",
        "torch.aten.silu",
        "torch.aten.size.int",
        "torch.aten.slice.Tensor",
        "torch.aten.square",
        "torch.aten.t",
        "torch.aten.tanh",
        "torch.aten.transpose.int",
        "torch.aten.unsqueeze",
        "torch.aten.view",
        "torch.constant.bool",
        "torch.constant.float",
        "torch.constant.int",
        "torch.constant.none",
        "torch.constant.str",
        "torch.prim.ListConstruct",
        "torch.prim.ListUnpack",
    }
)


@contextmanager
def before(op: ir.Operation) -> Iterator[None]:
    """Create operations before this one, at its source location."""
    with op.location, ir.InsertionPoint(op):
        yield


def torch_op(name: str, operands: Sequence[ir.Value], result: ir.Type) -> ir.OpResult:
    """Create an operation with one result."""
    return ir.Operation.create(name, results=[result], operands=list(operands)).results[0]


def runtime_call(operator: str, operands: Sequence[ir.Value], result: ir.Type) -> ir.Value:
    """Create a call of one of the runtime's operators, operands in the order of its schema."""
    return ir.Operation.create(
        "torch.operator",
        results=[result],
        operands=list(operands),
        attributes={"name": ir.StringAttr.get(f"torch.sparseflow.{operator}")},
    ).results[0]


def constant_int(value: int) -> ir.Value:
    """Create a ``torch.constant.int``."""
    attribute = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), value)
    return _constant("int", "!torch.int", {"value": attribute})


def constant_bool(value: bool) -> ir.Value:
    """Create a ``torch.constant.bool``."""
    attribute = ir.IntegerAttr.get(ir.IntegerType.get_signless(1), int(value))
    return _constant("bool", "!torch.bool", {"value": attribute})


def constant_float(value: float) -> ir.Value:
    """Create a ``torch.constant.float``."""
    return _constant("float", "!torch.float", {"value": ir.FloatAttr.get_f64(value)})


def constant_str(value: str) -> ir.Value:
    """Create a ``torch.constant.str``."""
    return _constant("str", "!torch.str", {"value": ir.StringAttr.get(value)})


def none() -> ir.Value:
    """Create a ``torch.constant.none``."""
    return _constant("none", "!torch.none", {})


def int_list(values: Sequence[int]) -> ir.Value:
    """Create a list of constant ints."""
    type_ = ir.Type.parse("!torch.list<int>")
    return torch_op("torch.prim.ListConstruct", [constant_int(value) for value in values], type_)


def slice_last(value: ir.Value, start: int, end: int, result: ir.Type) -> ir.Value:
    """Create a slice of the last dimension."""
    return _slice(value, -1, start, end, result)


def slice_first(value: ir.Value, start: int, end: int, result: ir.Type) -> ir.Value:
    """Create a slice of the first dimension."""
    return _slice(value, 0, start, end, result)


def _slice(value: ir.Value, dim: int, start: int, end: int, result: ir.Type) -> ir.Value:
    numbers = [constant_int(number) for number in (dim, start, end, 1)]
    return torch_op("torch.aten.slice.Tensor", [value, *numbers], result)


def _constant(kind: str, type_: str, attributes: dict[str, ir.Attribute]) -> ir.Value:
    return ir.Operation.create(
        f"torch.constant.{kind}", results=[ir.Type.parse(type_)], attributes=attributes
    ).results[0]


def explain(op: ir.Operation, reason: str) -> None:
    """Record why an operation stays dense, unless a reason is recorded already."""
    if "sparse_gemm.reason" not in op.attributes:
        op.attributes["sparse_gemm.reason"] = ir.StringAttr.get(reason, op.context)


def replace(op: ir.Operation, value: ir.Value) -> None:
    """Replace all uses of an operation's single result and erase what is dead afterwards."""
    op.results[0].replace_all_uses_with(value)
    erase_if_dead(op)


def erase_if_dead(op: ir.Operation) -> None:
    """Erase an unused operation and the operands only it used, where they have no side effects."""
    pending = [op]
    while pending:
        candidate = pending.pop()
        if candidate.name not in _REMOVABLE or any(True for r in candidate.results for _ in r.uses):
            continue
        sources = {o.owner.operation for o in candidate.operands if not isinstance(o.owner, ir.Block)}
        candidate.erase()
        pending.extend(source for source in sources if source not in pending)
