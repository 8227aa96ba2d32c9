"""The pass ``form-contextual-mlp``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.contextual_mlp import GATE, POLICIES, PREDICTOR_DTYPES, RULES, contextual_mlp
from sparseflow.dialect.matchers import operations
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.dialect.weight import reoriented, weight
from sparseflow.errors import PassError
from sparseflow.passes.base import Pass, option
from sparseflow.passes.ir_builder import before, explain, replace
from sparseflow.passes.mlps import Mlp, bias_of, find_mlps
from sparseflow.passes.option_text import Table, parse_table, read_table

NOT_CONTEXTUAL = "sparse_gemm.not_contextual"
"""Discardable attribute: why a layer of an MLP isn't part of a contextual one."""

_FORMAT = (
    'Write {"0.up_proj": {"rank": 64, "rule": "top_k", "parameter": 256, "dtype": "bf16", "m_max": 4}} '
    'or {"dense": "why"} for an entry; of a 2:4 product too "down_policy": "1:cpu,512:dense".'
)


@dataclass(frozen=True)
class ContextualEntry:
    """How one MLP selects its neurons.

    Attributes:
        rank: the predictor's rank; 0 with the rule ``gate``, which has no predictor.
        rule: one of `sparseflow.dialect.contextual_mlp.RULES`.
        parameter: the parameter of the rule.
        dtype: element type of the predictor's matrices; in si8 each has a scale for each row.
        m_max: neurons are selected for at most this many rows.
        bias: whether the predictor has a bias.
        up_policy: the policy of the product of gate and up for more rows, which makes it 2:4. None: it stays
            dense.
        down_policy: the same for down.
    """

    rank: int
    rule: str
    parameter: float
    dtype: str
    m_max: int
    bias: bool = True
    up_policy: str | None = None
    down_policy: str | None = None

    @property
    def policies(self) -> dict[str, str]:
        """The policies of the 2:4 products, by name."""
        given = {name: getattr(self, name) for name in POLICIES}
        return {name: policy for name, policy in given.items() if policy is not None}


@dataclass(frozen=True)
class FormContextualMlp(Pass):
    """Form contextual MLPs, which read only the neurons that a predictor selects.

    The table maps the name of an MLP's up layer to its predictor, whose tensors are the weights
    `<name>/pred_a` [r, H], `<name>/pred_b` [I, r], `<name>/pred_bias` [I], and in si8 `<name>/pred_a_scale`
    and `<name>/pred_b_scale`; the rule `gate` has none (`"rank": 0`); or to `{"dense": "why"}`. With
    `up_policy` the weights of gate and up, with `down_policy` that of down become 2:4.

    Requires: layers in the form of `canonicalize-linear`; a table whose entries are well-formed.

    Ensures: each MLP that the table knows is a `sparse_gemm.contextual_mlp`: `act(gate(x)) * up(x)` or
    `act(up(x))`, then down, with biases, act being `silu`, `gelu`, `gelu_tanh` (GPT-2's written out, too),
    `relu` or its square. Inactive dropout and views that keep the shape are skipped. The layers of an MLP
    that doesn't become contextual carry the reason: as `sparse_gemm.reason` if `outside-reason` is given,
    else as `sparse_gemm.not_contextual`, with which they can still become sparse.

    Left alone: MLPs whose neurons something else reads, whose layers read different inputs, have computed or
    merged weights, or differ in dtype; those that return another type than x's. Layers outside MLPs, unless
    `outside-reason` says why they stay dense.
    """

    name: ClassVar[str] = "form-contextual-mlp"
    table: Table | None = option(None, "path of the table, a JSON object", parse_table)  # noqa: RUF009
    outside_reason: str = option(
        "", "keep layers outside contextual MLPs dense, for this reason; empty: they can become sparse", str
    )

    def run(self, module: ir.Module) -> None:
        """Find all MLPs before rewriting one: known sizes are valid for the unmodified module only."""
        table = self._load()
        for mlp in find_mlps(module):
            entry = table.get(mlp.name, f"no predictor is trained for the MLP of {mlp.name}")
            if mlp.reason or isinstance(entry, str):
                for layer in mlp.layers:
                    self._explain(layer, f"not contextual: {mlp.reason or entry}")
            else:
                _form(mlp, entry)
        for op in operations(module, {"torch.aten.linear"}) if self.outside_reason else ():
            explain(op, self.outside_reason)

    def _explain(self, layer: ir.Operation, reason: str) -> None:
        if self.outside_reason:
            explain(layer, reason)
        else:
            layer.attributes[NOT_CONTEXTUAL] = ir.StringAttr.get(reason)

    def _load(self) -> Mapping[str, ContextualEntry | str]:
        if self.table is None:
            raise PassError(
                "pass 'form-contextual-mlp'",
                "has no table",
                "Give one: form-contextual-mlp{table=predictors.json}.",
            )
        entries = read_table(self.table, "predictor table", _FORMAT)
        return {name: _entry(name, entry) for name, entry in entries.items()}


def _entry(name: str, entry: object) -> ContextualEntry | str:
    subject = f"predictor table, entry '{name}'"
    if isinstance(entry, ContextualEntry):
        return entry
    if isinstance(entry, Mapping) and list(entry) == ["dense"]:
        return str(entry["dense"])
    try:
        found = ContextualEntry(**entry)  # type: ignore[arg-type]
        numbers = found.m_max >= 1 and (found.rank >= 1) is (found.rule != GATE)
        numbers = numbers and float(found.parameter) == found.parameter
        texts = all(isinstance(policy, str) for policy in found.policies.values())
    except (TypeError, ValueError):
        raise PassError(subject, f"isn't a predictor: {entry!r}", _FORMAT) from None
    if not (numbers and texts) or found.rule not in RULES or found.dtype not in PREDICTOR_DTYPES:
        raise PassError(subject, f"has an invalid value: {entry!r}", _FORMAT)
    return found


def _form(mlp: Mlp, entry: ContextualEntry) -> None:
    neurons, hidden = mlp.sizes
    down, weights = mlp.ref(mlp.down), tensor_type(mlp.down.operands[1])
    turned = TensorType((neurons, hidden), None if weights is None else weights.dtype)
    with before(mlp.down):
        optional = {
            "gate": None if mlp.gate is None else mlp.gate.operands[1],
            "gate_bias": None if mlp.gate is None else bias_of(mlp.gate),
            "up_bias": bias_of(mlp.up),
            "down_bias": bias_of(mlp.down),
            **{part: weight(f"{mlp.name}/{part}", type_) for part, type_ in _predictor(mlp, entry).items()},
        }
        made = contextual_mlp(
            mlp.up.operands[0],
            mlp.up.operands[1],
            reoriented(down.op, turned, transposed=not down.transposed[0]),
            activation=mlp.activation,
            rule=entry.rule,
            parameter=float(entry.parameter),
            m_max=entry.m_max,
            result=mlp.down.results[0].type,
            optional={role: value for role, value in optional.items() if value is not None},
            policies=entry.policies,
        )
    replace(mlp.down, made.results[0])


def _predictor(mlp: Mlp, entry: ContextualEntry) -> dict[str, TensorType]:
    """Return the types of a predictor's tensors."""
    neurons, hidden = mlp.sizes
    if entry.rule == GATE:
        return {}
    types = {
        "pred_a": TensorType((entry.rank, hidden), entry.dtype),
        "pred_b": TensorType((neurons, entry.rank), entry.dtype),
    }
    if entry.bias:
        types["pred_bias"] = TensorType((neurons,), "f32")
    if entry.dtype == "si8":
        types |= {
            "pred_a_scale": TensorType((entry.rank,), "f32"),
            "pred_b_scale": TensorType((neurons,), "f32"),
        }
    return types
