"""The pass ``form-decode-attention``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch_mlir import ir

from sparseflow.dialect.base import number_of
from sparseflow.dialect.decode_attention import decode_attention, has_few_queries
from sparseflow.dialect.matchers import constant_int, defined_by, is_none, known_bool, operations
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, tensor_type
from sparseflow.passes.base import Pass, option
from sparseflow.passes.elements import Condition, Elements, Limit, Read
from sparseflow.passes.ir_builder import before, explain, replace, torch_op
from sparseflow.passes.ir_builder import constant_int as int_value
from sparseflow.passes.option_text import one_of
from sparseflow.passes.sizes import KnownSizes, Size
from sparseflow.passes.views import VIEWS
from sparseflow.runtime.attention.flash_limits import DTYPES, WIDTHS
from sparseflow.support.arguments import QUERIES, Queries

ATTENTION = "torch.aten.scaled_dot_product_attention"


@dataclass(frozen=True)
class FormDecodeAttention(Pass):
    """Find attention over a cache: of few queries, which a kernel that splits the keys is for, or of any.

    Requires: nothing; masks without content and repeated heads may be there.

    Ensures: a `torch.aten.scaled_dot_product_attention` of a known number of queries, at most 16, is a
    `sparse_gemm.decode_attention` where the operations that make its mask prove that a query sees the keys up
    to a position that a tensor of one element gives, perhaps within a window, perhaps those of a matrix of
    `[batch, keys]` that a padding mask makes. With one query it may have no mask. The mask itself is never
    made. Heads that are repeated for the query heads of a group are read from their source.

    With `queries=any`, for GPUs that FlashAttention runs on, so is one of more queries, or of a number that
    isn't known, in float16 or bfloat16, with a position and without padding, whose heads have a width that
    FlashAttention takes.

    Left alone, with `sparse_gemm.reason` where so many queries are looked at: other masks, masks that are
    added, dropout, other dtypes.
    """

    name: ClassVar[str] = "form-decode-attention"
    queries: Queries = option(  # noqa: RUF009
        "few", "attention of how many queries is formed: few (16 at most), or any", one_of(QUERIES)
    )

    def run(self, module: ir.Module) -> None:
        """Decide about every attention, then rewrite: what is known holds for the unmodified module."""
        attention = operations(module, {ATTENTION})
        if not attention:
            return
        sizes = KnownSizes(module)
        elements = Elements(sizes)
        forms = [(op, _form(op, elements, self.queries)) for op in attention]
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


def _form(op: ir.Operation, elements: Elements, which: Queries) -> _Form | str:
    """Return the form of an attention, or why it stays; empty if it has more queries than are looked at."""
    query, key, value, mask, dropout, causal, scale, _ = op.operands
    types = [tensor_type(operand) for operand in (query, key, value)]
    if any(type_ is None or type_.rank != 4 for type_ in types):
        return ""
    q = types[0]
    assert q is not None
    width, few = q.dim(3), has_few_queries(q)
    sizes = elements.sizes.of(query)
    if sizes is None or not (few or which == "any"):
        return ""
    if reason := _refusal([type_ for type_ in types if type_ is not None], dropout):
        return reason
    if known_bool(causal) is not False:
        return "its queries are the first ones: it has no cache"
    sees = _seen(mask, sizes[2], elements)
    if isinstance(sees, str):
        return sees
    if not few and (reason := _refusal_of_many(q, sees)):
        return reason
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


def _refusal_of_many(q: TensorType, sees: _Sees) -> str:
    """Return why FlashAttention doesn't take many queries; empty if it does."""
    width = q.dim(3)
    if q.dtype not in DTYPES:
        return f"attends with many queries in {q.dtype}"
    if width not in WIDTHS:
        return f"attends with many queries in heads {'?' if width is None else width} wide"
    if sees.keep is not None:
        return "attends with many queries, and its mask hides padding"
    return "" if sees.position is not None else "all of its queries see all keys"


def _number(value: ir.Value) -> float | None:
    op = defined_by(value, "torch.constant.float")
    return None if op is None else number_of(op)


def _seen(mask: ir.Value, queries: Size, elements: Elements) -> _Sees | str:
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


def _limited(found: Condition, queries: Size) -> _Sees | None:
    """Return the position and the window of a mask's limits."""
    step = int(queries != 1)  # the index along a dimension of 1 is 0
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
