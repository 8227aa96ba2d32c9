"""The pass ``apply-policy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.linear import layer_format, product_dtype
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.types import tensor_type
from sparseflow.errors import ArgumentError, PassError
from sparseflow.passes.base import Pass, option
from sparseflow.passes.densify import dense_layer
from sparseflow.passes.ir_builder import before, replace
from sparseflow.passes.option_text import Table, parse_table, read_table
from sparseflow.runtime.dispatch.policy import Policy

_DENSE, _POLICY = "dense", "policy"
_FORMAT = (
    'Write {"f32:4096x4096": "1:cpu,512:dense", "f16:128x64": "dense"} or {"dense": "why"} for an entry, '
    'with "policy": "1:dense" beside it for layers in lossy formats.'
)


@dataclass(frozen=True)
class ApplyPolicy(Pass):
    """Set which kernel runs each sparse layer for how many rows, from measurements.

    The table maps `dtype:NxK` (the dtype that is multiplied, `f8E4M3FN` in the format `2:4-fp8`; a merged
    layer counts as one, with the sum of its N) to a policy such as `"1:cpu,512:dense"`, to `"dense"`, or to
    `{"dense": "why"}`. With `"policy": "1:dense"` beside that reason, layers in lossy formats take this
    policy instead: what a layer computes doesn't depend on measurements.

    Requires: a table whose policies are well-formed.

    Ensures: each `sparse_gemm.linear` that the table knows has that `policy`; one that the table calls
    dense is a `torch.aten.linear` again (epilogue and residual as operations of their own) with the
    table's reason as `sparse_gemm.reason`. Layers that the table doesn't know are left alone.
    """

    name: ClassVar[str] = "apply-policy"
    table: Table | None = option(None, "path of the table, a JSON object", parse_table)  # noqa: RUF009

    @classmethod
    def of(cls, policies: Mapping[str, Policy], dense: Mapping[str, str] | None = None) -> ApplyPolicy:
        """Make the pass from measured policies; layers for which sparse doesn't pay become dense.

        Args:
            policies: by ``dtype:NxK``.
            dense: for other keys the reason why their layers become dense.
        """
        reasons = {key: {_DENSE: why} for key, why in (dense or {}).items()}
        return cls({key: _measured(key, policy) for key, policy in policies.items()} | reasons)

    def run(self, module: ir.Module) -> None:
        """Look each layer up by dtype and shape."""
        table = self._load()
        for op in operations(module, {"sparse_gemm.linear"}):
            key = _key(op)
            if key in table:
                _apply(op, table[key])

    def _load(self) -> Mapping[str, str | _Dense]:
        if self.table is None:
            raise PassError(
                "pass 'apply-policy'", "has no table", "Give one: apply-policy{table=policies.json}."
            )
        entries = read_table(self.table, "policy table", _FORMAT)
        return {key: _entry(key, entry) for key, entry in entries.items()}


@dataclass(frozen=True)
class _Dense:
    """The decision that a layer runs densely, and the policy that a layer of a lossy format takes instead."""

    reason: str
    policy: str | None = None


def _measured(key: str, policy: Policy) -> object:
    densely = policy.measured and not policy.pays
    return {_DENSE: policy.why(), _POLICY: str(policy)} if densely else str(policy)


def _entry(key: str, entry: object) -> str | _Dense:
    if entry == _DENSE:
        return _Dense(f"measured to be no faster sparse ({key})")
    if isinstance(entry, Mapping) and {_DENSE} <= entry.keys() <= {_DENSE, _POLICY}:
        reason, policy = entry[_DENSE], entry.get(_POLICY)
        if isinstance(reason, str) and isinstance(policy, str | None):
            return _Dense(reason, None if policy is None else _policy(key, policy))
    return _policy(key, entry)


def _policy(key: str, entry: object) -> str:
    if not isinstance(entry, str):
        raise PassError(f"policy table, entry '{key}'", f"is neither a policy nor dense: {entry!r}", _FORMAT)
    try:
        Policy.parse(entry)
    except ArgumentError as error:
        raise PassError(
            f"policy table, entry '{key}'", f"has a malformed {error.subject}: {error.rule}", _FORMAT
        ) from None
    return entry


def policy_key(dtype: str | None, n: int | None, k: int | None) -> str:
    """Return the key of a policy, which has all that determines a product's time; dtype as MLIR spells it."""
    return f"{dtype}:{n}x{k}"


def _key(op: ir.Operation) -> str:
    type_ = tensor_type(op.operands[1])
    assert type_ is not None, "the verifier checked it"
    n, k = type_.shape or (None, None)
    return policy_key(product_dtype(op), n, k)


def _apply(op: ir.Operation, decision: str | _Dense) -> None:
    policy = decision if isinstance(decision, str) else decision.policy if layer_format(op).lossy else None
    if policy is not None:
        op.attributes["policy"] = ir.StringAttr.get(policy)
    elif isinstance(decision, _Dense):
        with before(op):
            replace(op, dense_layer(op, decision.reason))
