"""The pass ``form-decode-attention``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch_mlir import ir

from sparseflow.dialect.base import number_of
from sparseflow.dialect.decode_attention import MOST_QUERIES, decode_attention
from sparseflow.dialect.matchers import constant_int, defined_by, is_none, known_bool, operations
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, tensor_type
from sparseflow.passes.base import Pass
from sparseflow.passes.elements import Condition, Elements, Limit, Read
from sparseflow.passes.ir_builder import before, explain, replace, torch_op
from sparseflow.passes.ir_builder import constant_int as int_value
from sparseflow.passes.sizes import KnownSizes
from sparseflow.passes.views import VIEWS

ATTENTION = "torch.aten.scaled_dot_product_attention"


@dataclass(frozen=True)
class FormDecodeAttention(Pass):
    """Find attention of few queries, which a kernel that splits the keys is for.

    Requires: nothing; masks without content and repeated heads may be there.

    Ensures: a `torch.aten.scaled_dot_product_attention` of a known number of queries, at most 16, is a
    `sparse_gemm.decode_attention` where the operations that make its mask prove that a query sees the keys up
    to a position that a tensor of one element gives, perhaps within a window, perhaps those of a matrix of
    `[batch, keys]` that a padding mask makes. With one query it may have no mask. The mask itself is never
    made. Heads that are repeated for the query heads of a group are read from their source.

    Left alone, with `sparse_gemm.reason` where queries are few: other masks, masks that are added, dropout,
    other dtypes.
    """

    name: ClassVar[str] = "form-decode-attention"

    def run(self, module: ir.Module) -> None:
        """Decide about every attention, then rewrite: what is known holds for the unmodified module."""
        attention = operations(module, {ATTENTION})
        if not attention:
            return
        sizes = KnownSizes(module)
        elements = Elements(sizes)
        forms = [(op, _form(op, elements)) for op in attention]
        heads = [_heads(op.operands[at], sizes) for op in attention for at in (1, 2)]
        for at, (op, form) in enumerate(forms):
            if isinstance(form, str):
                if form:
                    explain(op, form)
                continue
            _rewrite(op, form, heads[2 * at], heads[2 * at + 1])


class _Sees(NamedTuple):
    """Which keys a query sees, as `decode_attention` takes it."""

    position: ir.Value | None = None
    window: int = 0
    keep: ir.Value | None = None


class _Form(NamedTuple):
    sees: _Sees
    scale: float


class _Heads(NamedTuple):
    """Keys or values: where the heads are, and whether each was expanded to its group."""

    value: ir.Value
    expanded: bool


def _form(op: ir.Operation, elements: Elements) -> _Form | str:
    """Return the form of an attention, or why it stays; empty if it has many queries."""
    query, key, value, mask, dropout, causal, scale, _ = op.operands
    types = [tensor_type(operand) for operand in (query, key, value)]
    if any(type_ is None or type_.rank != 4 for type_ in types):
        return ""
    q = types[0]
    assert q is not None
    queries, width = q.dim(2), q.dim(3)
    if queries is None or not 1 <= queries <= MOST_QUERIES:
        return ""
    if reason := _refusal([type_ for type_ in types if type_ is not None], dropout):
        return reason
    if known_bool(causal) is not False:
        return "its queries are the first ones: it has no cache"
    sees = _seen(mask, queries, elements)
    if isinstance(sees, str):
        return sees
    number = _number(scale)
    if number is None and not is_none(scale):
        return "its scale isn't a constant"
    if number is None and width is None:
        return "the width of its heads isn't known"
    return _Form(sees, float(width or 1) ** -0.5 if number is None else number)


def _refusal(types: list[TensorType], dropout: ir.Value) -> str:
    dtypes = {type_.dtype for type_ in types}
    if len(dtypes) != 1 or not dtypes <= set(SPARSE_DTYPES):
        return f"attends in {', '.join(sorted(str(dtype) for dtype in dtypes))}"
    if _number(dropout) != 0:
        return "it drops weights out"
    if len({type_.dim(3) for type_ in types} - {None}) > 1:
        return "its values have another width than its keys"
    return ""


def _number(value: ir.Value) -> float | None:
    op = defined_by(value, "torch.constant.float")
    return None if op is None else number_of(op)


def _seen(mask: ir.Value, queries: int, elements: Elements) -> _Sees | str:
    """Return which keys queries see, or why that isn't known."""
    if is_none(mask):
        return _Sees() if queries == 1 else "all of its queries see all keys"
    type_ = tensor_type(mask)
    if type_ is not None and type_.dtype != "i1":
        return "its mask is added to the scores"
    found = elements.condition(mask)
    if found is None or len(found.sizes) != 4 or not isinstance(found.sizes[3], int) or found.sizes[3] < 2:
        return "nothing is known of its mask"
    if found.sizes[2] != queries:
        return "its mask isn't one of its queries"
    sees = _limited(found, queries)
    if sees is None:
        return "its mask isn't that of a position in a cache"
    keep = _kept(found.reads)
    if isinstance(keep, str):
        return keep
    return sees._replace(keep=keep)


def _limited(found: Condition, queries: int) -> _Sees | None:
    """Return the position and the window of a mask's limits."""
    step = int(queries > 1)  # the index along a dimension of 1 is 0
    sees = _Sees()
    bounds = sorted(found.limits, key=lambda limit: -limit.steps[3])
    for limit in bounds:
        if len(limit.terms) != 1:
            return None
        ((position, count),) = limit.terms
        if limit == Limit((0, 0, -step, 1), 0, frozenset({(position, -1)})) and sees.position is None:
            sees = sees._replace(position=position)
        elif sees.position is not None and position == sees.position and not sees.window:
            if (limit.steps, count) != ((0, 0, step, -1), 1) or limit.offset > 0:
                return None
            sees = sees._replace(window=1 - limit.offset)
        else:
            return None
    return sees


def _kept(reads: frozenset[Read]) -> ir.Value | str | None:
    """Return the matrix that says which keys are no padding; None for all, or why it can't be read."""
    if not reads:
        return None
    if len(reads) > 1:
        return "its mask has several sources"
    (read,) = reads
    type_ = tensor_type(read.tensor)
    one = type_ is not None and type_.dim(0) == 1
    if read.dims not in ((0, 3), (None, 3)) or (read.dims[0] is None and not one):
        return "its mask isn't one of sequences and keys"
    return read.tensor


def _heads(value: ir.Value, sizes: KnownSizes) -> _Heads:
    """Return the heads that a value repeats, `reshape(expand([B, H, 1, L, D]))`, or the value itself."""
    merged = defined_by(value, *VIEWS)
    copied = None if merged is None else defined_by(merged.operands[0], "torch.aten.clone")
    repeated = merged if copied is None else copied
    expanded = None if repeated is None else defined_by(repeated.operands[0], "torch.aten.expand")
    if merged is None or expanded is None:
        return _Heads(value, expanded=False)
    before_, after = tensor_type(expanded.results[0]), tensor_type(value)
    copies, wanted = (defined_by(op.operands[1], "torch.prim.ListConstruct") for op in (expanded, merged))
    if (
        before_ is None
        or after is None
        or before_.rank != 5
        or after.rank != 4
        or copies is None
        or wanted is None
    ):
        return _Heads(value, expanded=False)
    counts = [constant_int(copies.operands[at]) for at in (1, 2)]
    heads = constant_int(wanted.operands[1])
    source, target = list(copies.operands), list(wanted.operands)
    same = all(
        sizes.element(source[a]) == sizes.element(target[b]) or source[a] == target[b]
        for a, b in ((0, 0), (3, 2), (4, 3))
    )
    if None in counts or heads != (counts[0] or 0) * (counts[1] or 0) or not same:
        return _Heads(value, expanded=False)
    return _Heads(expanded.results[0], expanded=True)


def _rewrite(op: ir.Operation, form: _Form, keys: _Heads, values: _Heads) -> None:
    with before(op):
        query, *_ = op.operands
        attention = decode_attention(
            query,
            _once(keys),
            _once(values),
            scale=form.scale,
            window=form.sees.window,
            position=form.sees.position,
            keep=form.sees.keep,
            result=op.results[0].type,
        )
    replace(op, attention.results[0])


def _once(heads: _Heads) -> ir.Value:
    """Return each head once: a view."""
    if not heads.expanded:
        return heads.value
    type_ = tensor_type(heads.value)
    assert type_ is not None
    assert type_.shape is not None
    b, h, _, length, width = type_.shape
    result = TensorType((b, h, length, width), type_.dtype).build()
    return torch_op("torch.aten.select.int", [heads.value, int_value(2), int_value(0)], result)
