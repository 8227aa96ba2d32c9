"""The base class of the dialect's operations, and access to attributes shared by their verifiers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.sparse_gemm import SparseGemm
from sparseflow.runtime import formats

Op = ir.Operation | ir.OpView
"""An operation, plain or in the class of its kind."""

Operand = ext.Operand[Any]
"""A field of an operation: an operand whose type is checked by the verifier instead of ext."""

Result = ext.Result[Any]
"""A field of an operation: a result whose type is checked by the verifier instead of ext."""

_View = TypeVar("_View", bound=ir.OpView)


class VerifiedOp(SparseGemm.Operation):
    """An operation whose verifier is written in Python and names the violated rule."""

    def broken_rules(self) -> Iterator[str]:
        """Yield the violated rules, the most basic first."""
        raise NotImplementedError

    def verify_invariants(self) -> bool:
        """Report the first violated rule as an MLIR diagnostic; later ones may only follow from it."""
        # Rules read operands and results by name, so their counts are checked first.
        rule = _broken_counts(self) or next(self.broken_rules(), None)
        if rule is not None:
            self.location.emit_error(f"'{self.OPERATION_NAME}' op {rule}")
        return rule is None


def _broken_counts(op: VerifiedOp) -> str | None:
    """Return what is wrong with the counts of operands and results or with `operandSegmentSizes`, or None."""
    operands, _, results, _ = ext.partition_fields(op._fields)
    given, groups = len(op.operation.operands), op._ODS_OPERAND_SEGMENTS
    if len(op.operation.results) != len(results):
        return f"has {len(op.operation.results)} results, not {len(results)}"
    if groups is None:
        return None if given == len(operands) else f"has {given} operands, not {len(operands)}"
    found = attribute(op, "operandSegmentSizes")
    sizes = list(found) if isinstance(found, ir.DenseI32ArrayAttr) else []
    fits = len(sizes) == len(groups) and all(
        size in ((1,) if group else (0, 1)) for size, group in zip(sizes, groups, strict=True)
    )
    return (
        None
        if fits and sum(sizes) == given
        else f"has {given} operands and 'operandSegmentSizes' {quoted(found)}"
    )


def attribute(op: Op, name: str) -> ir.Attribute | None:
    """Return an attribute; None if it is missing or of a kind that the bindings have no class for."""
    try:
        return op.attributes.get(name)
    except TypeError:  # array<si64: 1>, say
        return None


def string_attribute(op: Op, name: str) -> str | None:
    """Return the text of a string attribute; None if it is missing or of another kind."""
    # Verifiers run before the kinds of attributes are checked, so nothing is assumed about them.
    found = attribute(op, name)
    return found.value if isinstance(found, ir.StringAttr) else None


def string_list_attribute(op: Op, name: str) -> tuple[str, ...] | None:
    """Return the texts of an array of strings; None if it is missing or of another kind."""
    found = attribute(op, name)
    if not isinstance(found, ir.ArrayAttr):
        return None
    texts = [item.value for item in found if isinstance(item, ir.StringAttr)]
    return tuple(texts) if len(texts) == len(found) else None


def text_of(op: Op, name: str = "value") -> str:
    """Return the text of a string attribute that the operation is known to have.

    Raises:
        ValueError: it is of another kind.
    """
    return ir.StringAttr(op.attributes[name]).value


def number_of(op: Op, name: str = "value") -> float:
    """Return the value of an attribute that the operation is known to have: an integer, float or bool.

    Raises:
        TypeError: it is of another kind.
    """
    return number(op.attributes[name])


def number(found: ir.Attribute) -> float:
    """Return the value of an integer, float or bool attribute.

    Raises:
        TypeError: it is of another kind.
    """
    if isinstance(found, (ir.IntegerAttr, ir.FloatAttr, ir.BoolAttr)):
        return found.value
    raise TypeError(f"{found} is not a number")


def view_as(op: ir.Operation, kind: type[_View]) -> _View:
    """Return the view of an operation with its operands and attributes by name.

    Raises:
        TypeError: it is of another kind.
    """
    view = op.opview
    if not isinstance(view, kind):
        raise TypeError(f"{op.name} is not a {kind.__name__}")
    return view


def transposed_flags(op: Op, names: Sequence[str]) -> tuple[bool, ...] | None:
    """Return for each of an operation's tensors whether it is read transposed; None if malformed."""
    if "transposed" not in op.attributes:
        return (False,) * len(names)
    found = op.attributes["transposed"]
    if not isinstance(found, ir.DenseBoolArrayAttr) or len(found) != len(names):
        return None
    return tuple(found)


def part_sizes(op: Op, names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the rows of each part; None if the attribute is missing or malformed."""
    found = attribute(op, "sizes")
    if not isinstance(found, ir.DenseI64ArrayAttr) or len(found) != len(names):
        return None
    return tuple(found)


def broken_list_rules(op: Op, rows: int | None) -> Iterator[str]:
    """Yield what is wrong with the ``names``, ``transposed`` and ``sizes`` of an operation."""
    names = string_list_attribute(op, "names")
    if names is None:
        yield "needs an array of strings 'names'"
        return
    if not names or not all(names):
        yield "needs at least one name and no empty one in 'names'"
    for name in names:
        if names.count(name) > 1:
            yield f"names '{name}' more than once"
    if transposed_flags(op, names) is None:
        yield "'transposed' must be an array of one i1 for each name"
    if "sizes" in op.attributes:
        yield from _broken_sizes(part_sizes(op, names), rows)


def _broken_sizes(sizes: tuple[int, ...] | None, rows: int | None) -> Iterator[str]:
    if sizes is None:
        yield "'sizes' must be an array of one i64 for each name"
    elif min(sizes, default=0) < 0:
        yield f"needs sizes of at least 0, not {min(sizes)}"
    elif rows is not None and sum(sizes) != rows:
        yield f"'sizes' add up to {sum(sizes)}, but the result has N = {rows}"


def broken_format_rules(op: Op) -> Iterator[str]:
    """Yield what is wrong with the ``format`` of an operation."""
    name = string_attribute(op, "format")
    if not formats.is_format(name):
        known = ", ".join(f"'{known}'" for known in formats.names())
        yield f"needs a 'format' that is one of {known}, not {quoted(name)}"


def format_of(op: Op) -> formats.Format | None:
    """Return the ``format`` of an operation, None if it is wrong."""
    name = string_attribute(op, "format")
    return formats.find(name) if name is not None and formats.is_format(name) else None


def quoted(text: object) -> str:
    """Return a value in quotes for a message, or "none"."""
    return "none" if text is None else f"'{text}'"
