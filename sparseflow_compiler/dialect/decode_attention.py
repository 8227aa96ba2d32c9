"""``sparse_gemm.decode_attention``: attention of queries over a cache of keys and values."""

# No `from __future__ import annotations`: ext reads the fields' annotations as types.
from collections.abc import Iterator, Mapping

from torch_mlir import ir
from torch_mlir.dialects import ext

from sparseflow.dialect.base import Operand, Result, VerifiedOp, quoted
from sparseflow.dialect.types import SPARSE_DTYPES, TensorType, compatible, types_by_role

MOST_QUERIES = 16
"""Queries of a head that are few: kernels for them split the keys. For more there are kernels for prompts."""


def has_few_queries(q: TensorType) -> bool:
    """Return whether queries ``[B, H, Q, D]`` are known to be few."""
    queries = q.dim(2)
    return queries is not None and 1 <= queries <= MOST_QUERIES


class DecodeAttentionOp(VerifiedOp, name="decode_attention", traits=[ext.Pure]):
    """``softmax(q · kᵀ · scale) · v`` over the keys that a query sees.

    q and the result are ``[B, H, Q, D]``, k and v ``[B, Hkv, L, D]``, where query heads ``h`` read key head
    ``h // (H / Hkv)``; k and v may have B = 1. Query i sees key n where ``n <= position + i``,
    ``n > position + i - window`` if window isn't 0, and ``keep[b, n]``. position is an si64 tensor of one
    element, keep an i1 ``[B, at least L]``; without position a query sees all keys, and there is no window.
    A query that sees no key gives zeros. More than 16 queries, or a number that isn't known, have a position,
    no keep, and ``position + Q <= L``: they are part of a prompt.
    """

    result: Result
    q: Operand
    k: Operand
    v: Operand
    scale: ir.FloatAttr
    window: ir.IntegerAttr
    position: Operand | None = None
    keep: Operand | None = None

    def broken_rules(self) -> Iterator[str]:
        """Check the attributes, and the dtypes and shapes of all tensors."""
        scale, window = (self.attributes.get(name) for name in ("scale", "window"))
        if not isinstance(scale, ir.FloatAttr):
            yield "needs a float 'scale'"
        if not isinstance(window, ir.IntegerAttr) or window.value < 0:
            yield "needs an integer 'window' of at least 0"
            return
        if window.value and self.position is None:
            yield "needs a position where it has a window"
        types, rule = types_by_role(self.tensors())
        if rule:
            yield rule
            return
        yield from _broken_types(types)

    def tensors(self) -> dict[str, ir.Value]:
        """Return operands and result by role, without those that are left out."""
        given = {role: getattr(self, role) for role in ("q", "k", "v", "position", "keep")}
        return {role: value for role, value in given.items() if value is not None} | {
            "result": self.results[0]
        }


def _broken_types(types: Mapping[str, TensorType]) -> Iterator[str]:
    q = types["q"]
    if q.dtype not in (None, *SPARSE_DTYPES):
        yield f"takes {', '.join(SPARSE_DTYPES)}, not {q.dtype}"
    for role in ("q", "k", "v"):
        if types[role].rank not in (None, 4):
            yield f"needs {role} to have four dimensions, not {quoted(types[role])}"
            return
    many = q.shape is not None and not has_few_queries(q)
    if many and ("position" not in types or "keep" in types):
        yield f"needs a position and no keep, or 1 to {MOST_QUERIES} queries, not {quoted(q)}"
    width = q.dim(3)
    for role in ("k", "v"):
        if not compatible(types[role], TensorType((None, None, None, width), q.dtype)):
            yield f"needs {role} to be as wide as q and of its dtype, not {quoted(types[role])}"
    if not compatible(types["k"], types["v"]):
        yield f"needs k and v to be alike, not {quoted(types['k'])} and {quoted(types['v'])}"
    heads, of_keys = q.dim(1), types["k"].dim(1)
    if heads is not None and of_keys is not None and (of_keys == 0 or heads % of_keys):
        yield f"needs the heads of q to be a multiple of those of k, not {heads} and {of_keys}"
    if not compatible(types["result"], q):
        yield f"needs its result to be like q, not {quoted(types['result'])}"
    if "position" in types and types["position"] not in (TensorType((), "si64"), TensorType((1,), "si64")):
        yield f"needs position to be one si64, not {quoted(types['position'])}"
    if "keep" in types and not compatible(types["keep"], TensorType((None, None), "i1")):
        yield f"needs keep to be a matrix of i1, not {quoted(types['keep'])}"


def decode_attention(
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    *,
    scale: float,
    window: int,
    position: ir.Value | None,
    keep: ir.Value | None,
    result: ir.Type,
) -> ir.Operation:
    """Create an attention over a cache at the current insertion point.

    Args:
        q: ``[B, H, Q, D]``.
        k: ``[B, Hkv, L, D]``.
        v: like k.
        scale: of the scores.
        window: how many keys a query sees at most; 0 for all before it.
        position: the last key that the first query sees; None if all queries see all keys.
        keep: which keys are seen at all, ``[B, at least L]``; None for all.
        result: type of the result, that of q as far as it is known.
    """
    numbers = ir.FloatAttr.get_f64(scale), ir.IntegerAttr.get(ir.IntegerType.get_signless(64), window)
    optional = {name: value for name, value in (("position", position), ("keep", keep)) if value is not None}
    made: ir.Operation = DecodeAttentionOp(result, q, k, v, *numbers, **optional).operation
    return made
