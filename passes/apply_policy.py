"""The pass ``apply-policy``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.base import text_of
from sparseflow.dialect.linear import HEAD, KEEPS_DENSE, layer_format, product_dtype, set_keeps_dense
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.types import tensor_type
from sparseflow.errors import ArgumentError, PassError
from sparseflow.passes.base import Pass, option
from sparseflow.passes.densify import dense_layer
from sparseflow.passes.ir_builder import before, replace
from sparseflow.passes.option_text import Table, one_of, parse_table, read_table
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.formats import Format
from sparseflow.support.arguments import MEMORY_MODES, Memory

_DENSE, _POLICY = "dense", "policy"
_FORMAT = (
    'Write {"f32:4096x4096": "1:cpu,512:dense", "f16:128x64": "dense"} or {"dense": "why"} for an entry, '
    'with "policy": "1:dense" beside it for layers in lossy formats; {"policy": "1:cpu,512:dense", '
    '"keeps_dense": true} where the dense weight is kept.'
)


@dataclass(frozen=True)
class ApplyPolicy(Pass):
    """Set which kernel runs each sparse layer for how many rows, from measurements.

    The table maps `dtype:NxK` (the dtype that is multiplied, `f8E4M3FN` in the format `2:4-fp8`; a merged
    layer counts as one, with the sum of its N; with `@6:8` after it in the formats of other patterns than
    2:4) to a policy such as `"1:cpu,512:dense"`, to `"dense"`, or to
    `{"dense": "why"}`. With `"policy": "1:dense"` beside that reason, layers in lossy formats take this
    policy instead: what a layer computes doesn't depend on measurements. `{"policy": "1:cpu,512:dense",
    "keeps_dense": true}` also keeps the dense weight beside the packed one, for the M's that run densely.
    With `memory=fast` every layer whose policy runs densely for some M keeps it, whatever the table says;
    with `memory=compressed` none does.

    Requires: a table whose policies are well-formed.

    Ensures: each `sparse_gemm.linear` that the table knows has that `policy`, and `keeps_dense` where its
    dense weight is kept; one that the table calls dense is a `torch.aten.linear` again (epilogue and residual
    as operations of their own) with the table's reason as `sparse_gemm.reason`. Layers that the table doesn't
    know are left alone, but for what `memory` says of all.
    """

    name: ClassVar[str] = "apply-policy"
    table: Table | None = option(None, "path of the table, a JSON object", parse_table)  # noqa: RUF009
    memory: Memory = option(  # noqa: RUF009
        "auto",
        "whether dense weights are kept: auto (as the table says), compressed (none) or fast",
        one_of(MEMORY_MODES),
    )

    @classmethod
    def of(cls, policies: Mapping[str, Policy], dense: Mapping[str, str] | None = None) -> ApplyPolicy:
        """Make the pass from measured policies; layers for which sparse doesn't pay become dense.

        Args:
            policies: by ``dtype:NxK``.
            dense: for other keys the reason why their layers become dense.
        """
        reasons = {key: {_DENSE: why} for key, why in (dense or {}).items()}
        return cls({key: _measured(policy) for key, policy in policies.items()} | reasons)

    def run(self, module: ir.Module) -> None:
        """Look each layer up by dtype and shape."""
        table = self._load()
        for op in operations(module, {"sparse_gemm.linear"}):
            key = _key(op)
            # A format of dense weights has one way to run; a 2:4 layer may have its shape.
            if key in table and layer_format(op).pattern != "dense":
                _apply(op, table[key])
        if self.memory != "auto":
            for op in operations(module, {"sparse_gemm.linear"}):
                wanted = Policy.parse(text_of(op, "policy")).wants_dense
                set_keeps_dense(op, wanted and self.memory == "fast")

    def _load(self) -> Mapping[str, _Entry]:
        if self.table is None:
            raise PassError(
                "pass 'apply-policy'", "has no table", "Give one: apply-policy{table=policies.json}."
            )
        entries = read_table(self.table, "policy table", _FORMAT)
        return {key: _entry(key, entry) for key, entry in entries.items()}


@dataclass(frozen=True)
class _Entry:
    """What the table says of a layer: its policy, or why it runs densely.

    Attributes:
        reason: why it is dense; None where it is sparse.
        policy: of a sparse layer, and of a dense one that a lossy format has: that takes it instead.
        keeps_dense: whether the policy's dense weight is kept.
    """

    reason: str | None = None
    policy: str | None = None
    keeps_dense: bool = False


def _measured(policy: Policy) -> object:
    densely = {_DENSE: policy.why()} if policy.measured and not policy.pays else {}
    kept = {KEEPS_DENSE: True} if policy.keeps_dense else {}
    return {**densely, _POLICY: str(policy), **kept} if densely or kept else str(policy)


def _entry(key: str, entry: object) -> _Entry:
    if entry == _DENSE:
        return _Entry(f"measured to be no faster sparse ({key})")
    if isinstance(entry, str):
        return _Entry(policy=_policy(key, entry))
    if isinstance(entry, Mapping) and entry and entry.keys() <= {_DENSE, _POLICY, KEEPS_DENSE}:
        reason, policy, kept = entry.get(_DENSE), entry.get(_POLICY), entry.get(KEEPS_DENSE, False)
        given = isinstance(reason, str | None) and isinstance(policy, str | None) and isinstance(kept, bool)
        if given and (policy is not None or (reason is not None and not kept)):
            return _Entry(reason, None if policy is None else _policy(key, policy, kept), kept)
    raise PassError(f"policy table, entry '{key}'", f"is neither a policy nor dense: {entry!r}", _FORMAT)


def _policy(key: str, text: str, kept: bool = False) -> str:
    try:
        policy = Policy.parse(text)
    except ArgumentError as error:
        raise PassError(
            f"policy table, entry '{key}'", f"has a malformed {error.subject}: {error.rule}", _FORMAT
        ) from None
    if kept and not policy.wants_dense:
        rule = f"keeps a dense weight, but its policy {text!r} runs densely for no M"
        raise PassError(f"policy table, entry '{key}'", rule, _FORMAT)
    return text


def policy_key(dtype: str | None, n: int | None, k: int | None, stored: Format) -> str:
    """Return the key of a policy, which has all that determines a product's time; dtype as MLIR spells it."""
    pattern = "" if stored.pattern in ("2:4", "dense") else f"@{stored.name}"
    return f"{dtype}:{n}x{k}{pattern}"


def _key(op: ir.Operation) -> str:
    type_ = tensor_type(op.operands[1])
    assert type_ is not None, "the verifier checked it"
    n, k = type_.shape or (None, None)
    return policy_key(product_dtype(op), n, k, layer_format(op))


def _stays(op: ir.Operation) -> bool:
    """Return whether what a layer computes would change if it ran over the model's dense weight."""
    return layer_format(op).lossy or HEAD in op.attributes


def _apply(op: ir.Operation, entry: _Entry) -> None:
    if entry.policy is None and HEAD in op.attributes:
        # Its dense form is the packed one's: the model's own weight isn't pruned.
        op.attributes["policy"] = ir.StringAttr.get("1:dense")
        set_keeps_dense(op, True)
    elif entry.policy is not None and (entry.reason is None or _stays(op)):
        op.attributes["policy"] = ir.StringAttr.get(entry.policy)
        set_keeps_dense(op, entry.keeps_dense)
    elif entry.reason is not None:
        with before(op):
            replace(op, dense_layer(op, entry.reason))
