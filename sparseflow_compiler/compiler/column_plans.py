"""Plan the layers of a program that leave out inputs near zero: for how many rows that pays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.compiler.bank import ProgramWeights
from sparseflow.compiler.options import CompileOptions
from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds, LayerThreshold
from sparseflow.contextual.activations.column_policies import (
    UNMEASURED,
    ColumnPolicy,
    ColumnShape,
    column_policy,
)
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.errors import ArgumentError
from sparseflow.passes.eligibility import Limits, reason_to_stay
from sparseflow.passes.form_column_linear import ColumnEntry
from sparseflow.support.progress import Step

NO_THRESHOLD = "with format={!r} only layers with a threshold are sparse, and this one has none"
"""Why layers without a threshold stay dense if no weight is sparse."""


@dataclass(frozen=True)
class ColumnPlan:
    """How a layer leaves inputs out.

    Attributes:
        layer: its threshold.
        policy: for how many rows it does.
        together: the layers that read the same input with the same threshold, itself among them.
        format: how its weight is stored, of `COLUMNS`; empty: as it is.
    """

    layer: LayerThreshold
    policy: ColumnPolicy
    together: tuple[str, ...]
    format: str = ""


@dataclass(frozen=True)
class _Found:
    """A layer of the program that has a threshold."""

    name: str
    op: ir.Operation
    weight: str
    layer: LayerThreshold


def plan_columns(
    module: ir.Module, weights: ProgramWeights, options: CompileOptions, step: Step
) -> tuple[dict[str, object], dict[str, ColumnPlan]]:
    """Return the table of `form-column-linear`, and the plan of each layer.

    Args:
        module: in the form of `canonicalize-linear`.
        weights: those of the program.
        options: of the compilation, with thresholds.
        step: called while measuring, to advance the progress bar.

    Returns:
        Table and plans by the layers' names.

    Raises:
        ArgumentError: a threshold is for a layer of another shape, or none is for a layer of the model.
    """
    thresholds = options.thresholds
    assert thresholds is not None, "the caller checked it"
    groups, stored = _groups(_with_thresholds(module, thresholds, options)), options.column_format
    table: dict[str, object] = {}
    plans: dict[str, ColumnPlan] = {}
    for done, group in enumerate(groups):
        names = tuple(found.name for found in group)
        step(done, len(groups), names[0])
        shape = _shape(group, weights, stored)
        _require_kernel(shape)
        policy = UNMEASURED if options.policy == "sparse" else column_policy(shape)
        for found in group:
            plans[found.name] = ColumnPlan(found.layer, policy, names, stored)
            table[found.name] = _entry(found.layer, policy, stored)
    return table, plans


def _require_kernel(shape: ColumnShape) -> None:
    if shape.format == "fp8" and shape.device.type == "cpu":
        raise ArgumentError(
            "sf.compile(format='fp8', contextual=thresholds)",
            "the CPU's kernels read layers with a threshold in int8, not in fp8",
            "format='int8', which takes as many bytes and rounds less",
        )


def _with_thresholds(
    module: ir.Module, thresholds: ActivationThresholds, options: CompileOptions
) -> list[_Found]:
    limits = Limits(min_n=1, min_k=1, skip=options.skipped)
    found: list[_Found] = []
    names: list[str] = []
    for op in operations(module, {"torch.aten.linear"}):
        ref = weight_ref(op.operands[1])
        if ref is None or len(ref.names) != 1:
            continue
        name = ref.layers[0]
        names.append(name)
        if name in thresholds and reason_to_stay(op, ref, limits) is None:
            found.append(_Found(name, op, ref.names[0], thresholds[name]))
    if not any(name in thresholds for name in names):
        raise ArgumentError(
            "sf.compile(contextual=…)",
            f"the thresholds are for {_listed(list(thresholds))}, the model's layers are {_listed(names)}",
            "choose thresholds for this model: sf.calibrate_activations",
        )
    return found


def _groups(layers: Sequence[_Found]) -> list[list[_Found]]:
    """Return the layers that will be merged, together."""
    groups: dict[object, list[_Found]] = defaultdict(list)
    for found in layers:
        groups[found.op.operands[0], found.layer.threshold].append(found)
    return list(groups.values())


def _shape(group: Sequence[_Found], weights: ProgramWeights, stored: str) -> ColumnShape:
    matrices = [weights.dense((found.weight,)) for found in group]
    for found, matrix in zip(group, matrices, strict=True):
        if sorted(matrix.shape) != sorted(found.layer.shape):
            raise ArgumentError(
                f"threshold of {found.name}",
                f"it is for {list(found.layer.shape)}, but the weight is {list(matrix.shape)}",
                "choose thresholds for this model: sf.calibrate_activations",
            )
    first = matrices[0]
    n, k = sum(found.layer.shape[0] for found in group), group[0].layer.shape[1]
    return ColumnShape(n, k, first.dtype, first.device, round(100 * group[0].layer.rate / 5) * 5, stored)


def _entry(layer: LayerThreshold, policy: ColumnPolicy, stored: str) -> object:
    return ColumnEntry(layer.threshold, policy.m_max, stored) if policy.m_max else {"dense": policy.why()}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "") or "none"
