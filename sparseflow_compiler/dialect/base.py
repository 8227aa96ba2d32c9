"""What the operations of the dialect share: the dialect itself and how a verifier reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.runtime import formats


class SparseGemm(ext.Dialect, name="sparse_gemm"):  # type: ignore[call-arg,misc]
    """Structured-sparse matrix products over weights that are named, not held."""


class VerifiedOp(SparseGemm.Operation):  # type: ignore[name-defined,misc]
    """An operation that names the rule it breaks."""

    def broken_rules(self) -> Iterator[str]:
        """What is wrong with the operation, the most basic first."""
        raise NotImplementedError

    def verify_invariants(self) -> bool:
        """Report the first broken rule as MLIR does; later ones may only follow from it."""
        # What follows reads operands and results by name.
        rule = _broken_counts(self) or next(self.broken_rules(), None)
        if rule is not None:
            self.location.emit_error(f"'{self.OPERATION_NAME}' op {rule}")
        return rule is None


def _broken_counts(op: ir.OpView) -> str | None:
    """What is wrong with how many operands and results there are, or with what says which are left out."""
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


def attribute(op: ir.OpView, name: str) -> ir.Attribute | None:
    """An attribute, None when it is missing or one that the bindings have no class for."""
    try:
        return op.attributes.get(name)
    except TypeError:  # array<si64: 1>, say
        return None


def string_attribute(op: ir.OpView, name: str) -> str | None:
    """The text of a string attribute, None when it is missing or of another kind."""
    # Verifiers run before the attributes' kinds were checked, hence no assumption about them.
    found = attribute(op, name)
    return found.value if isinstance(found, ir.StringAttr) else None


def string_list_attribute(op: ir.OpView, name: str) -> tuple[str, ...] | None:
    """The texts of an array of strings, None when it is missing or of another kind."""
    found = attribute(op, name)
    if not isinstance(found, ir.ArrayAttr) or not all(isinstance(item, ir.StringAttr) for item in found):
        return None
    return tuple(item.value for item in found)


def transposed_flags(op: ir.OpView, names: Sequence[str]) -> tuple[bool, ...] | None:
    """Which of an operation's tensors are read transposed; None when the attribute is malformed."""
    if "transposed" not in op.attributes:
        return (False,) * len(names)
    found = op.attributes["transposed"]
    if not isinstance(found, ir.DenseBoolArrayAttr) or len(found) != len(names):
        return None
    return tuple(found)


def part_sizes(op: ir.OpView, names: Sequence[str]) -> tuple[int, ...] | None:
    """Rows of each part where the operation says so; None when it doesn't or the attribute is malformed."""
    found = attribute(op, "sizes")
    if not isinstance(found, ir.DenseI64ArrayAttr) or len(found) != len(names):
        return None
    return tuple(found)


def broken_list_rules(op: ir.OpView, rows: int | None) -> Iterator[str]:
    """What is wrong with the ``names``, ``transposed`` and ``sizes`` of an operation over several tensors."""
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


def broken_format_rules(op: ir.OpView) -> Iterator[str]:
    """What is wrong with the ``format`` of an operation."""
    name = string_attribute(op, "format")
    if name not in formats.names():
        known = ", ".join(f"'{known}'" for known in formats.names())
        yield f"needs a 'format' that is one of {known}, not {quoted(name)}"


def format_of(op: ir.OpView) -> formats.Format | None:
    """The ``format`` of an operation, None where that is wrong."""
    name = string_attribute(op, "format")
    return formats.find(name) if name in formats.names() else None


def quoted(text: object) -> str:
    """Something as it is quoted in messages."""
    return "none" if text is None else f"'{text}'"
