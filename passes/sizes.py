"""Infer which dynamic sizes of a module are equal from the operations that produce the tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.dialect.matchers import constant_int, constant_ints, defined_by
from sparseflow.dialect.types import TensorType, tensor_type


class Unknown:
    """A size that is known only to equal itself."""


@dataclass(frozen=True)
class Clamped:
    """The smaller of an unknown size and a number above 1: that of a slice from the start."""

    size: Unknown
    limit: int


Size = int | Unknown | Clamped
Sizes = tuple[Size, ...]

ELEMENTWISE = (
    "add.Scalar alias clone contiguous cos detach div.Scalar dropout exp gelu layer_norm mul.Scalar neg "
    "pow.Tensor_Scalar relu rms_norm rsqrt sigmoid silu sin softmax.int sqrt sub.Scalar tanh to.device "
    "to.dtype to.dtype_layout type_as"
)
"""Operators of aten whose result has the shape of their first operand, without `torch.aten.`."""

BROADCASTING = "add.Tensor div.Tensor mul.Tensor sub.Tensor"
"""Operators of two tensors that are broadcast to one shape."""

TO_THE_END = 2**63 - 1
"""The end of a slice that has none."""


class KnownSizes:
    """The sizes of every tensor of a module, computed once; rewriting the module invalidates them."""

    def __init__(self, module: ir.Module) -> None:
        self._sizes: dict[ir.Value, Sizes] = {}
        module.operation.walk(self._visit, ir.WalkOrder.PRE_ORDER)

    def equal(self, a: ir.Value, b: ir.Value) -> bool:
        """Return whether two tensors provably have the same shape, so that neither broadcasts."""
        sizes = self.of(a)
        return sizes is not None and sizes == self.of(b)

    def of(self, value: ir.Value) -> Sizes | None:
        """Return the sizes of a tensor, or None if its rank is unknown."""
        if value not in self._sizes:
            type_ = tensor_type(value)
            if type_ is None or type_.shape is None:
                return None
            self._sizes[value] = _refine(type_, None)
        return self._sizes[value]

    def _visit(self, op: ir.Operation) -> ir.WalkResult:
        rule = _RULES.get(op.name)
        type_ = tensor_type(op.results[0]) if rule is not None and len(op.results) == 1 else None
        if rule is not None and type_ is not None and type_.shape is not None:
            self._sizes[op.results[0]] = _refine(type_, rule(self, op))
        return ir.WalkResult.ADVANCE

    def element(self, value: ir.Value) -> Size:
        """Return the size that an int operand denotes, such as an entry of a requested shape."""
        if (constant := constant_int(value)) is not None:
            return constant if constant >= 0 else Unknown()
        op = defined_by(value, "torch.aten.size.int")
        sizes = None if op is None else self.of(op.operands[0])
        at = None if op is None or sizes is None else dimension(op.operands[1], len(sizes))
        return Unknown() if sizes is None or at is None else sizes[at]


_Rule = Callable[[KnownSizes, ir.Operation], "Sequence[Size] | None"]


def _refine(type_: TensorType, found: Sequence[Size] | None) -> Sizes:
    """Combine the sizes of a type with those found for the operation."""
    shape = type_.shape or ()
    if found is None or len(found) != len(shape):
        found = [Unknown() for _ in shape]
    return tuple(size if static is None else static for static, size in zip(shape, found, strict=True))


def _first(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    return known.of(op.operands[0])


def _rows(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    """Handle a linear layer: the input's leading sizes; N is in the type."""
    sizes = known.of(op.operands[0])
    return None if sizes is None else [*sizes[:-1], Unknown()]


def _embedding(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    sizes = known.of(op.operands[1])
    return None if sizes is None else [*sizes, Unknown()]


def _broadcast(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    a, b = known.of(op.operands[0]), known.of(op.operands[1])
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    ones: tuple[Size, ...] = (1,) * rank
    pairs = zip((*ones, *a)[-rank:], (*ones, *b)[-rank:], strict=True) if rank else ()
    return [_common(one, other) for one, other in pairs]


def _multiplied(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    """Handle a matrix product, whose batch dimensions broadcast."""
    a, b = known.of(op.operands[0]), known.of(op.operands[1])
    if a is None or b is None or len(a) != len(b) or len(a) < 2:
        return None
    return [*map(_common, a[:-2], b[:-2]), a[-2], b[-1]]


def _common(a: Size, b: Size) -> Size:
    if a == b or b == 1 or _fits(b, a):
        return a
    if a == 1 or isinstance(b, int) or _fits(a, b):
        return b
    # Two unknown sizes: either may be a 1 that broadcasts.
    return a if isinstance(a, int) else Unknown()


def _fits(clamped: Size, size: Size) -> bool:
    """Return whether one size is the other clamped; if clamping applied, torch would reject the shapes."""
    return isinstance(clamped, Clamped) and clamped.size == size


def _listed(known: KnownSizes, op: ir.Operation) -> list[Size] | None:
    sizes = defined_by(op.operands[1], "torch.prim.ListConstruct")
    return None if sizes is None else [known.element(size) for size in sizes.operands]


def _viewed(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    """Handle a view: the requested sizes, a -1 inferred from the source."""
    given, rest = _listed(known, op), list(known.of(op.operands[0]) or ())
    wanted = constant_ints(op.operands[1]) or []
    if given is None or -1 not in wanted:
        return given
    at = wanted.index(-1)
    for size in (*given[:at], *given[at + 1 :]):
        if size not in rest:
            return given
        rest.remove(size)
    # torch rejects a -1 if another size is 0.
    return [*given[:at], rest[0], *given[at + 1 :]] if len(rest) == 1 else given


def _expanded(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    """Handle an expand: the requested sizes; -1 keeps the source's."""
    given, source = _listed(known, op), known.of(op.operands[0])
    if given is None or source is None or len(given) < len(source):
        return None
    kept = [*[Unknown()] * (len(given) - len(source)), *source]
    wanted = constant_ints(op.operands[1]) or []
    return [old if want == -1 else new for want, old, new in zip(wanted, kept, given, strict=True)]


def _exchanged(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    sizes = list(known.of(op.operands[0]) or ())
    a, b = dimension(op.operands[1], len(sizes)), dimension(op.operands[2], len(sizes))
    if a is None or b is None:
        return None
    sizes[a], sizes[b] = sizes[b], sizes[a]
    return sizes


def _sliced(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    sizes, (_, dim, start, end, step) = list(known.of(op.operands[0]) or ()), op.operands
    at = dimension(dim, len(sizes))
    if at is None:
        return None
    from_start = (constant_int(start), constant_int(step)) == (0, 1)
    if not (from_start and constant_int(end) == TO_THE_END):
        sizes[at] = _clamped(known.element(end), sizes[at]) if from_start else Unknown()
    return sizes


def _clamped(size: Size, limit: Size) -> Size:
    if isinstance(size, Unknown) and isinstance(limit, int) and limit > 1:
        return Clamped(size, limit)
    return Unknown()


def dimension(dim: ir.Value, rank: int) -> int | None:
    """Return a constant dimension as a non-negative index, or None if not constant or out of range."""
    value = constant_int(dim)
    return value % rank if value is not None and -rank <= value < rank else None


def _unsqueezed(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    sizes = list(known.of(op.operands[0]) or ())
    at = dimension(op.operands[1], len(sizes) + 1)
    return None if at is None else [*sizes[:at], 1, *sizes[at:]]


def _counted(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    return [known.element(op.operands[0])]


def _reduced(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    """Handle a reduction with keepdim; without it the rank differs and nothing is inferred."""
    found, dims = known.of(op.operands[0]), constant_ints(op.operands[1])
    return _except(found, dims) if found and dims else None


def _concatenated(known: KnownSizes, op: ir.Operation) -> Sequence[Size] | None:
    tensors, type_ = defined_by(op.operands[0], "torch.prim.ListConstruct"), tensor_type(op.results[0])
    parts = [] if tensors is None or type_ is None else map(known.of, tensors.operands)
    # Empty tensors of rank 1 may be among the parts.
    found = next((part for part in parts if part and type_ and len(part) == type_.rank), None)
    return None if found is None else _except(found, [constant_int(op.operands[1])])


def _except(sizes: Sizes, dims: Sequence[int | None]) -> Sequence[Size] | None:
    changed = {dim % len(sizes) for dim in dims if dim is not None}
    return None if None in dims else [Unknown() if i in changed else size for i, size in enumerate(sizes)]


_RULES: dict[str, _Rule] = {
    **dict.fromkeys((f"torch.aten.{name}" for name in ELEMENTWISE.split()), _first),
    **dict.fromkeys((f"torch.aten.{name}" for name in BROADCASTING.split()), _broadcast),
    **dict.fromkeys(("torch.aten.matmul", "torch.aten.bmm", "torch.aten.mm"), _multiplied),
    "torch.aten.linear": _rows,
    "sparse_gemm.column_linear": _rows,
    "sparse_gemm.linear": _rows,
    "torch.aten.embedding": _embedding,
    "torch.aten.view": _viewed,
    "torch.aten.reshape": _viewed,
    "torch.aten._unsafe_view": _viewed,
    "torch.aten.expand": _expanded,
    "torch.aten.transpose.int": _exchanged,
    "torch.aten.slice.Tensor": _sliced,
    "torch.aten.unsqueeze": _unsqueezed,
    "torch.aten.arange": _counted,
    "torch.aten.mean.dim": _reduced,
    "torch.aten.cat": _concatenated,
}
