"""Plan the contextual MLPs of a program: which predictor each has, and for how many rows it pays."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_mlir import ir

from sparseflow.compiler.bank import ProgramWeights
from sparseflow.compiler.mlp_products import Product, Products, measured_products
from sparseflow.compiler.options import CompileOptions
from sparseflow.contextual.predictors import MlpPredictor, Predictors
from sparseflow.contextual.row_policies import UNMEASURED, Candidate, ContextualPolicy, measured_policy
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.errors import ArgumentError
from sparseflow.passes.form_contextual_mlp import NOT_CONTEXTUAL, ContextualEntry
from sparseflow.passes.mlps import Mlp, bias_of, find_mlps
from sparseflow.passes.weight_uses import WeightUses
from sparseflow.runtime.contextual import ContextualWeights, Predictor
from sparseflow.runtime.contextual.by_gate import GateThreshold
from sparseflow.support.progress import Step

_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.int8: "si8"}

OUTSIDE_REASON = "with format=None only MLPs with a predictor are sparse, and this layer is in none"
"""Why layers outside contextual MLPs stay dense if no weight is sparse."""


@dataclass(frozen=True)
class MlpPlan:
    """How a contextual MLP runs.

    Attributes:
        selecting: for how many rows it selects neurons.
        products: how its products run for more rows.
    """

    selecting: ContextualPolicy
    products: Products


def plan_contextual(
    module: ir.Module, weights: ProgramWeights, options: CompileOptions, step: Step
) -> tuple[dict[str, object], dict[str, MlpPlan]]:
    """Return the table of `form-contextual-mlp`, and the plan of each MLP.

    Adds the predictors' tensors to the weights of the model.

    Args:
        module: in the form of `canonicalize-linear`.
        weights: those of the program.
        options: of the compilation, with predictors.
        step: called while measuring, to advance the progress bar.

    Returns:
        Table and plans by the MLPs' names.

    Raises:
        ArgumentError: a predictor doesn't have its MLP's size, or no predictor is for an MLP of the model.
    """
    predictors = options.predictors
    assert predictors is not None, "the caller checked it"
    mlps = _with_predictors(find_mlps(module), predictors)
    if options.format is None:
        products = {mlp.name: Products() for mlp in mlps}
    else:
        products = measured_products(mlps, WeightUses(module), weights, options, step)
    candidates = {
        mlp.name: _candidate(mlp, predictors[mlp.name], products[mlp.name], weights) for mlp in mlps
    }
    plans = {
        name: _plan(policy, products[name]) for name, policy in _measured(candidates, options, step).items()
    }
    table: dict[str, object] = {}
    for name, candidate in candidates.items():
        table[name] = _table_entry(candidate.layer, plans[name])
        tensors = candidate.layer.tensors()
        weights.bank.add({f"{name}/{part}": tensor for part, tensor in tensors.items()})
    return table, plans


def not_contextual_reasons(module: ir.Module) -> dict[str, str]:
    """Return why layers of MLPs aren't contextual, by weight name, as `form-contextual-mlp` recorded it."""
    found: dict[str, str] = {}
    for op in operations(module, {"torch.aten.linear"}):
        ref = weight_ref(op.operands[1])
        if ref is not None and NOT_CONTEXTUAL in op.attributes:
            found |= dict.fromkeys(ref.names, ir.StringAttr(op.attributes[NOT_CONTEXTUAL]).value)
    return found


def _measured(
    candidates: Mapping[str, Candidate], options: CompileOptions, step: Step
) -> dict[str, ContextualPolicy]:
    groups: dict[object, list[str]] = defaultdict(list)
    for name, candidate in candidates.items():
        groups[candidate.key].append(name)
    policies: dict[str, ContextualPolicy] = {}
    for done, names in enumerate(groups.values()):
        step(done, len(groups), names[0])
        group = [candidates[name] for name in names]
        policy = UNMEASURED if options.policy == "sparse" else measured_policy(group)
        policies |= dict.fromkeys(names, policy)
    return policies


def _plan(policy: ContextualPolicy, products: Products) -> MlpPlan:
    if not policy.measured:  # policy='sparse'
        return MlpPlan(policy, products)
    if products.is_measured:
        policy = policy.beside(products.speedup)
    return MlpPlan(policy, products.above(policy.m_max))


def _table_entry(layer: MlpPredictor, plan: MlpPlan) -> object:
    found, m_max = layer.predictor, plan.selecting.m_max
    if not m_max:
        return {"dense": plan.selecting.why()}
    if isinstance(found, GateThreshold):
        entry = ContextualEntry(0, found.rule, found.parameter, "f32", m_max, bias=False)
    else:
        dtype, bias = _DTYPES[found.a.dtype], found.bias is not None
        entry = ContextualEntry(found.rank, found.rule, found.parameter, dtype, m_max, bias)
    up, down = plan.products.up, plan.products.down
    return dataclasses.replace(entry, up_policy=up.text, down_policy=down.text)


def _with_predictors(mlps: list[Mlp], predictors: Predictors) -> list[Mlp]:
    """Return the MLPs that can become contextual and have a predictor."""
    usable = {mlp.name: mlp for mlp in mlps if not mlp.reason}
    if not any(name in predictors for name in usable):
        raise ArgumentError(
            "sf.compile(contextual=…)",
            f"the predictors are for {_listed(predictors)}, but the model's MLPs are {_listed(usable)}",
            "train predictors for this model",
        )
    return [mlp for mlp in mlps if not mlp.reason and mlp.name in predictors]


def _candidate(mlp: Mlp, layer: MlpPredictor, products: Products, weights: ProgramWeights) -> Candidate:
    _require_fit(mlp, layer.predictor)
    up, down = mlp.ref(mlp.up), mlp.ref(mlp.down)
    matrix = weights.dense(up.names, up.transposed)
    here = MlpPredictor(layer.predictor.to(device=matrix.device), layer.rate, layer.figures)
    return Candidate(
        matrix,
        mlp.gate is not None,
        weights.dense(down.names, down.transposed),
        here,
        functools.partial(_contextual_weights, mlp, products, weights),
    )


def _contextual_weights(mlp: Mlp, products: Products, weights: ProgramWeights) -> ContextualWeights:
    """Return an MLP's weights as the kernels read them; weights that become 2:4 are copied for measuring."""

    def matrix(op: ir.Operation, product: Product, flipped: bool = False) -> Tensor:
        ref = mlp.ref(op)
        turned = ref.transposed[0] is not flipped
        if product.policy is not None:
            return weights.dense(ref.names, (turned,)).contiguous()
        return weights.contiguous(ref.names[0], turned)

    def bias(op: ir.Operation) -> Tensor | None:
        value = bias_of(op)
        ref = None if value is None else weight_ref(value)
        return None if ref is None else weights.dense(ref.names)

    return ContextualWeights(
        None if mlp.gate is None else matrix(mlp.gate, products.up),
        matrix(mlp.up, products.up),
        matrix(mlp.down, products.down, flipped=True),
        gate_bias=None if mlp.gate is None else bias(mlp.gate),
        up_bias=bias(mlp.up),
        down_bias=bias(mlp.down),
        activation=mlp.activation,
    )


def _require_fit(mlp: Mlp, predictor: Predictor | GateThreshold) -> None:
    if isinstance(predictor, GateThreshold) or (predictor.b.shape[0], predictor.a.shape[1]) == mlp.sizes:
        return
    found, features = predictor.b.shape[0], predictor.a.shape[1]
    neurons, hidden = mlp.sizes
    raise ArgumentError(
        f"predictor of {mlp.name}",
        f"it is for {found} neurons of {features} features, but the MLP has {neurons} of {hidden}",
        "train predictors for this model",
    )


def _listed(names: Mapping[str, object]) -> str:
    listed = list(names)[:3]
    return ", ".join(listed) + (", …" if len(names) > 3 else "") or "none"
