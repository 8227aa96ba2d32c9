"""Read the passes' decision about each layer from the IR, and make the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch_mlir import ir

from sparseflow.compiler.column_rows import column_row
from sparseflow.dialect.base import view_as
from sparseflow.dialect.column_linear import column_format
from sparseflow.dialect.contextual_mlp import ContextualMlpOp
from sparseflow.dialect.linear import FORMAT_REFUSED, GATES, HEAD, KEEPS_DENSE, layer_format, product_dtype
from sparseflow.dialect.matchers import weight_ref
from sparseflow.dialect.types import TensorType, tensor_type
from sparseflow.passes.apply_policy import policy_key
from sparseflow.passes.weight_views import is_convolution, multiplied_weights
from sparseflow.reports.report import FormatError, LayerReport, Range, Report
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats import COLUMNS, Format, find
from sparseflow.runtime.formats.tensors import TORCH_DTYPES

if TYPE_CHECKING:
    from sparseflow.compiler.bank import WeightBank
    from sparseflow.compiler.build import Program
    from sparseflow.compiler.mlp_plans import MlpPlan
    from sparseflow.compiler.mlp_products import Product
    from sparseflow.compiler.options import CompileOptions


EXACT = "2:4"
"""The exact format: of contextual MLPs, and of layers that can't have another one."""


@dataclass(frozen=True)
class LayerDecision:
    """The decision about one linear layer, or about another product with a parameter.

    Attributes:
        weight: its weight's name.
        N: out features.
        K: in features.
        dtype: element type as MLIR spells it.
        decision: how it runs.
        reason: why it is dense; empty for a sparse layer.
        policy: the key of its measured policy, or for a contextual layer the name of its MLP; empty if none
            was measured.
        merged: all layers of the merged product that it is part of; empty if it wasn't merged.
        gate: the activation of the gate that is fused into its product; empty without one.
        format: how its weight is stored; empty if it is dense.
        format_refused: why it doesn't have the requested format; empty if it has.
        head: whether it is the model's head in a format of its own.
        product: for a contextual layer the product of its MLP that it is part of: up (with the gate) or
            down; or column, if it is a layer that leaves inputs out.
        keeps_dense: whether its dense weight is kept beside the packed one.
    """

    weight: str
    N: int
    K: int
    dtype: str
    decision: Literal["sparse", "dense", "contextual"]
    reason: str = ""
    policy: str = ""
    merged: tuple[str, ...] = ()
    gate: str = ""
    format: str = ""
    format_refused: str = ""
    head: bool = False
    product: Literal["", "up", "down", "column"] = ""
    keeps_dense: bool = False


def decide(module: ir.Module) -> tuple[LayerDecision, ...]:
    """Return the decision about each layer of a module in the ``sparse_gemm`` stage, in program order."""
    found: dict[str, LayerDecision] = {}

    def visit(op: ir.Operation) -> ir.WalkResult:
        for decision in _decisions(op):
            found.setdefault(decision.weight, decision)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return tuple(found.values())


def _decisions(op: ir.Operation) -> Iterator[LayerDecision]:
    if op.name == "sparse_gemm.linear":
        yield from _sparse(op)
    elif op.name == "sparse_gemm.contextual_mlp":
        yield from _contextual(op)
    elif op.name == "sparse_gemm.column_linear":
        yield from _column(op)
    elif "sparse_gemm.reason" in op.attributes:
        yield from _dense(op, ir.StringAttr(op.attributes["sparse_gemm.reason"]).value)


def _sparse(op: ir.Operation) -> Iterator[LayerDecision]:
    ref, type_ = weight_ref(op.operands[1]), tensor_type(op.operands[1])
    assert ref is not None
    assert type_ is not None
    n, k, dtype = type_.dim(0), type_.dim(1), type_.dtype
    assert n is not None
    assert k is not None
    assert dtype is not None
    refusal = op.attributes.get(FORMAT_REFUSED)
    refused = refusal.value if isinstance(refusal, ir.StringAttr) else ""
    merged, stored = ref.layers if len(ref.names) > 1 else (), layer_format(op)
    measured = bool(ir.StringAttr(op.attributes["policy"]).value)
    key = policy_key(product_dtype(op), n, k, stored) if measured else ""
    for name, rows in zip(ref.names, ref.sizes or (n,), strict=True):
        yield LayerDecision(
            name,
            rows,
            k,
            dtype,
            "dense" if stored.pattern == "dense" else "sparse",
            policy=key,
            merged=merged,
            gate=GATES.get(ir.StringAttr(op.attributes["epilogue"]).value, ""),
            format=stored.name,
            format_refused=refused,
            head=HEAD in op.attributes,
            keeps_dense=KEEPS_DENSE in op.attributes,
        )


def _contextual(op: ir.Operation) -> Iterator[LayerDecision]:
    tensors = view_as(op, ContextualMlpOp).tensors()
    up = weight_ref(tensors["up"])
    assert up is not None, "made by form-contextual-mlp"
    for role in ("gate", "up", "down_t"):
        ref, type_ = (
            (weight_ref(tensors[role]), tensor_type(tensors[role])) if role in tensors else (None, None)
        )
        if ref is not None and type_ is not None:
            n, k = (size or 0 for size in type_.shape or (0, 0))
            n, k = (k, n) if role == "down_t" else (n, k)
            yield LayerDecision(
                ref.names[0],
                n,
                k,
                type_.dtype or "?",
                "contextual",
                policy=up.layers[0],
                product="down" if role == "down_t" else "up",
            )


def _column(op: ir.Operation) -> Iterator[LayerDecision]:
    ref, type_ = weight_ref(op.operands[1]), tensor_type(op.operands[1])
    assert ref is not None, "made by form-column-linear"
    n, k = _matrix(type_, kernel=False)
    merged = ref.layers if len(ref.names) > 1 else ()
    for name, rows in zip(ref.names, ref.sizes or (n,), strict=True):
        dtype = (type_ and type_.dtype) or "?"
        stored = COLUMNS[found] if (found := column_format(op)) else ""
        yield LayerDecision(
            name, rows, k, dtype, "contextual", merged=merged, product="column", format=stored
        )


def _dense(op: ir.Operation, reason: str) -> Iterator[LayerDecision]:
    views = multiplied_weights(op)
    for view in views:
        yield from _dense_parts(view.op.results[0], reason, kernel=is_convolution(op))
    if not views:
        type_ = tensor_type(op.operands[1])
        n, k = _matrix(type_, kernel=False)
        yield LayerDecision(_location_name(op), n, k, (type_ and type_.dtype) or "?", "dense", reason)


def _dense_parts(weight: ir.Value, reason: str, *, kernel: bool) -> Iterator[LayerDecision]:
    """Yield one decision for each name of a weight reference."""
    ref, type_ = weight_ref(weight), tensor_type(weight)
    assert ref is not None, "multiplied_weights() found a reference"
    n, k = _matrix(type_, kernel=kernel)
    for name, rows in zip(ref.names, ref.sizes or (n,), strict=True):
        yield LayerDecision(name, rows, k, (type_ and type_.dtype) or "?", "dense", reason)


def _location_name(op: ir.Operation) -> str:
    """Return a name for a layer without a named weight: its module's path, or its line in the source."""
    location = op.location
    named = location.name_str if isinstance(location, ir.NameLoc) else str(location)
    return named.removeprefix("loc(").removesuffix(")")


def _matrix(type_: TensorType | None, *, kernel: bool) -> tuple[int, int]:
    """Return N and K: N and C·… for a convolution's [N, C, …], E·N and K for experts' [E, N, K]."""
    sizes = [size or 0 for size in (type_ and type_.shape) or (0, 0)]
    rows = 1 if kernel else len(sizes) - 1
    return math.prod(sizes[:rows]), math.prod(sizes[rows:])


def make_report(name: str, programs: Sequence[Program], bank: WeightBank, options: CompileOptions) -> Report:
    """Return the report of a model: one row for each layer over all programs, and totals."""
    rows: dict[str, LayerReport] = {}
    for program in programs:
        for decision in program.phases.decisions:
            row = _row(decision, program, bank, options)
            if decision.weight not in rows or row.decision != "dense":
                rows[decision.weight] = row
    layers = list(rows.values())
    stages = {stage for program in programs for stage in program.seconds}
    model = {
        "name": name,
        "programs": len(programs),
        "inplace": options.inplace,
        "prune": options.prune,
        "memory": options.memory,
        "contextual": options.contextual is not None,
        "activations": None if options.thresholds is None else options.thresholds.to_dict(),
        "format": options.format,
        "lm_head": options.lm_head,
        "bytes_dense": sum(layer.bytes_dense for layer in layers),
        "bytes": sum(layer.bytes for layer in layers),
        "seconds": {stage: sum(p.seconds.get(stage, 0.0) for p in programs) for stage in sorted(stages)},
    }
    return Report(layers, model)


def _row(decision: LayerDecision, program: Program, bank: WeightBank, options: CompileOptions) -> LayerReport:
    sparse = decision.decision == "sparse"
    dense_bytes = decision.N * decision.K * _itemsize(decision.dtype)
    if decision.product == "column":
        plan = program.phases.columns[decision.weight.removesuffix(".weight")]
        return column_row(decision, plan, dense_bytes, _format_error(decision, program, bank))
    if decision.decision == "contextual":
        return _contextual_row(decision, program.phases.contextual[decision.policy], bank, options)
    policy = program.phases.policies.get(decision.policy) if sparse else None
    ranges = ranges_of(policy) if sparse else ()
    error = bank.relative_error(decision.weight)
    format_error = _format_error(decision, program, bank)
    reason = _why_sparse(decision, program, error, format_error, options) if sparse else decision.reason
    if decision.head:
        reason = _why_head(decision, reason, format_error, options)
    if error and not sparse:
        reason = f"{_origin(error, options, EXACT)}; {reason}"
    not_contextual = program.phases.not_contextual.get(decision.weight)
    return LayerReport(
        name=decision.weight.removesuffix(".weight"),
        N=decision.N,
        K=decision.K,
        dtype=decision.dtype,
        decision=decision.decision,
        reason=f"{reason}; {not_contextual}" if not_contextual else reason,
        ranges=ranges,
        bytes_dense=dense_bytes,
        bytes=_stored_bytes(decision, find(decision.format)) if decision.format else dense_bytes,
        rel_err=error,
        format=decision.format,
        format_err=format_error,
        measured=() if policy is None else policy.measured,
    )


def _why_head(
    decision: LayerDecision, reason: str, format_error: FormatError | None, options: CompileOptions
) -> str:
    """Return why the head has its format, for the report."""
    asked = f"lm_head={options.lm_head!r}"
    if decision.decision == "dense":
        return f"{asked}: dense in {decision.format}, {format_error}"
    return f"{asked}: a packed copy of its own; {reason}"


def _contextual_row(
    decision: LayerDecision, plan: MlpPlan, bank: WeightBank, options: CompileOptions
) -> LayerReport:
    assert options.predictors is not None, "the layer is contextual"
    layer, name = options.predictors[decision.policy], decision.weight.removesuffix(".weight")
    predictor, selecting = layer.predictor, plan.selecting
    product = plan.products.down if decision.product == "down" else plan.products.up
    selected = tuple((m, speedup) for m, speedup in selecting.measured if m <= selecting.m_max)
    found = layer.figures
    quality = (
        ""
        if found is None
        else f"; they make {found.coverage:.1%} of all contributions to the output, the best choice of as "
        f"many neurons {found.oracle_coverage:.1%}"
    )
    size = f"rank {predictor.rank}, {predictor.nbytes / 1e6:.2f} MB" if predictor.rank else "no predictor"
    reason = f"{layer.rate:.1%} of the neurons by {predictor.rule} ({size}), {selecting.why()}{quality}"
    error = bank.relative_error(decision.weight)
    dense_bytes = decision.N * decision.K * _itemsize(decision.dtype)
    packed_bytes = 0 if product.policy is None else _stored_bytes(decision, find(EXACT))
    return LayerReport(
        name=name,
        N=decision.N,
        K=decision.K,
        dtype=decision.dtype,
        decision="contextual",
        reason=reason + _for_more_rows(product, selecting.m_max, error, options),
        ranges=(
            Range(1, selecting.m_max, "contextual", min((speedup for _, speedup in selected), default=None)),
            *_ranges_above(product, selecting.m_max),
        ),
        bytes_dense=dense_bytes,
        bytes=dense_bytes + packed_bytes + (predictor.nbytes if name == decision.policy else 0),
        rel_err=error,
        format=EXACT if product.policy is not None else "",
        measured=(*selected, *_measured_above(product, selecting.m_max)),
    )


def _ranges_above(product: Product, m: int) -> tuple[Range, ...]:
    if product.policy is None:
        return (Range(m + 1, None, "dense", None),)
    ranges = product.policy.above(m)
    if not ranges:
        return (Range(m + 1, None, str(Policy().choice(1)), None),)
    return tuple(Range(r.m_min, r.m_max, str(r.choice), r.speedup) for r in ranges)


def _measured_above(product: Product, m: int) -> tuple[tuple[int, float], ...]:
    found = () if product.policy is None else product.policy.measured
    return tuple(point for point in found if point[0] > m)


def _for_more_rows(product: Product, m: int, error: float, options: CompileOptions) -> str:
    """Describe how a contextual layer runs for more than m rows, for the report."""
    if product.policy is None:
        pruned = f"; {_origin(error, options, EXACT)}" if error else ""
        return f"{pruned}; for more rows dense: {product.reason}" if product.reason else pruned
    timed = product.policy.why(m) if product.policy.measured else "not measured: policy='sparse'"
    other = (
        f"; not in {options.format}: its kernels read {EXACT}" if options.format not in (EXACT, None) else ""
    )
    return f"; {_origin(error, options, EXACT)}, for more rows 2:4, {timed}{other}"


def _origin(error: float, options: CompileOptions, pattern: str, *, head: bool = False) -> str:
    """Say why a weight has its pattern."""
    if head and error:
        return "pruned by magnitude"
    return f"pruned by {options.prune}" if error else f"already {pattern}"


def _itemsize(dtype: str) -> int:
    return TORCH_DTYPES[dtype].itemsize if dtype in TORCH_DTYPES else 0


def _stored_bytes(decision: LayerDecision, stored: Format) -> int:
    """Return the bytes of a layer's weight in a format, and of its dense form if that is kept too."""
    itemsize = _itemsize(stored.dense_type(decision.dtype)) if decision.keeps_dense else 0
    dense = decision.N * decision.K * itemsize
    return stored.nbytes(decision.N, decision.K, decision.dtype) + dense


def _format_error(decision: LayerDecision, program: Program, bank: WeightBank) -> FormatError | None:
    if not decision.format or not find(decision.format).lossy:
        return None
    return FormatError(bank.format_error(decision.weight), program.output_errors.get(decision.weight))


def ranges_of(policy: Policy | None) -> tuple[Range, ...]:
    """Return a policy's ranges as a report has them; None stands for a layer that always runs sparse."""
    if policy is None:
        return (Range(1, None, str(Policy().choice(1)), None),)
    return tuple(Range(r.m_min, r.m_max, str(r.choice), r.speedup) for r in policy.ranges)


def _why_sparse(
    decision: LayerDecision,
    program: Program,
    error: float,
    format_error: FormatError | None,
    options: CompileOptions,
) -> str:
    policy = program.phases.policies.get(decision.policy)
    timed = policy.why() if policy else "not measured: policy='sparse'"
    parts = decision.merged
    merged = f"; one product of {len(parts)}: {_last_names(parts)}" if parts else ""
    if format_error is not None:
        multiplied = find(decision.format).multiplied(decision.dtype)
        how = f"{timed} (dense in {multiplied} too)" if policy else "not measured: a CPU runs it in one way"
        timed = f"in {decision.format}, {format_error}; {how}"
    elif decision.format_refused:
        timed = f"not in {options.format}: {decision.format_refused}; {timed}"
    gate = f"; its {decision.gate} gate is part of it" if decision.gate else ""
    origin = _origin(error, options, find(decision.format).pattern, head=decision.head)
    return f"{origin}; {timed}{_copy(decision, policy)}{merged}{gate}"


def _copy(decision: LayerDecision, policy: Policy | None) -> str:
    """Return what a report says of a dense copy."""
    if not decision.keeps_dense:
        return ""
    if policy is None or policy.alone is None:
        return "; a dense copy is kept"
    worst, m = policy.alone.worst
    return f"; a dense copy is kept: packed alone it would run at {worst:.2f}× at M={m}"


def _last_names(layers: Sequence[str]) -> str:
    return ", ".join(layer.rpartition(".")[2] for layer in layers)
