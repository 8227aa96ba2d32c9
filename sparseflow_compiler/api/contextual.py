"""Contextual MLPs of a program: which predictor each gets, and when it is worth it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor
from torch_mlir import ir

from sparseflow.api.options import CompileOptions
from sparseflow.api.progress import Step
from sparseflow.api.weights import ProgramWeights
from sparseflow.contextual.policies import UNMEASURED, Candidate, ContextualPolicy, measured_policy
from sparseflow.contextual.predictors import MlpPredictor, Predictors
from sparseflow.dialect.matchers import weight_ref
from sparseflow.errors import ArgumentError
from sparseflow.passes.form_contextual_mlp import ContextualEntry, FormContextualMlp
from sparseflow.passes.mlps import Mlp, bias_of, find_mlps
from sparseflow.runtime.contextual import ContextualWeights, Predictor
from sparseflow.runtime.contextual.by_gate import GateThreshold

_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.int8: "si8"}

OTHERS = "sparsity='contextual' takes MLPs, and this layer is in none that it knows"
"""Why layers outside of MLPs stay dense where nothing else is sparse."""


def plan_contextual(
    module: ir.Module, weights: ProgramWeights, options: CompileOptions, step: Step
) -> tuple[FormContextualMlp, dict[str, ContextualPolicy]]:
    """The pass that makes a module's MLPs contextual where that pays, and the policy of each by its name.

    The predictors' tensors become weights of the model.

    Args:
        module: in the form of `canonicalize-linear`.
        weights: those of the program.
        options: of the compilation, a predictor among them.
        step: told while measuring.

    Raises:
        ArgumentError: a predictor is of another size than its MLP, or none is any MLP's.
    """
    predictors = options.predictor
    assert predictors is not None, "CompileOptions saw to it"
    candidates = _candidates(find_mlps(module), predictors, weights)
    groups: dict[object, list[str]] = defaultdict(list)
    for name, candidate in candidates.items():
        groups[candidate.key].append(name)
    policies: dict[str, ContextualPolicy] = {}
    for done, names in enumerate(groups.values()):
        step(done, len(groups), names[0])
        group = [candidates[name] for name in names]
        policy = UNMEASURED if options.policy == "sparse" else measured_policy(group)
        policies |= dict.fromkeys(names, policy)
    table: dict[str, object] = {}
    for name, candidate in candidates.items():
        policy = policies[name]
        table[name] = _entry(candidate.layer, policy.m_max) if policy.m_max else {"dense": policy.why()}
        tensors = candidate.layer.tensors()
        weights.bank.add({f"{name}/{part}": tensor for part, tensor in tensors.items()})
    return FormContextualMlp(table, OTHERS if options.sparsity == "contextual" else ""), policies


def _entry(layer: MlpPredictor, m_max: int) -> ContextualEntry:
    found = layer.predictor
    if isinstance(found, GateThreshold):
        return ContextualEntry(0, found.rule, found.parameter, "f32", m_max, bias=False)
    dtype, bias = _DTYPES[found.a.dtype], found.bias is not None
    return ContextualEntry(found.rank, found.rule, found.parameter, dtype, m_max, bias)


def _candidates(mlps: list[Mlp], predictors: Predictors, weights: ProgramWeights) -> dict[str, Candidate]:
    usable = {mlp.name: mlp for mlp in mlps if not mlp.reason}
    known = {name: mlp for name, mlp in usable.items() if name in predictors}
    if not known:
        raise ArgumentError(
            "sf.compile(predictor=…)",
            f"has predictors for {_some(predictors)}, and the model's MLPs are {_some(usable)}",
            "train it for this model",
        )
    return {name: _candidate(mlp, predictors[name], weights) for name, mlp in known.items()}


def _candidate(mlp: Mlp, layer: MlpPredictor, weights: ProgramWeights) -> Candidate:
    _require_fit(mlp, layer.predictor)

    def matrix(op: ir.Operation, flipped: bool = False) -> Tensor:
        ref = mlp.ref(op)
        return weights.contiguous(ref.names[0], ref.transposed[0] is not flipped)

    def bias(op: ir.Operation) -> Tensor | None:
        value = bias_of(op)
        ref = None if value is None else weight_ref(value)
        return None if ref is None else weights.dense(ref.names)

    down = mlp.ref(mlp.down)
    held = ContextualWeights(
        None if mlp.gate is None else matrix(mlp.gate),
        matrix(mlp.up),
        matrix(mlp.down, flipped=True),
        gate_bias=None if mlp.gate is None else bias(mlp.gate),
        up_bias=bias(mlp.up),
        down_bias=bias(mlp.down),
        activation=mlp.activation,
    )
    predictor = layer.predictor.to(device=held.up.device)
    here = MlpPredictor(predictor, layer.rate, layer.figures)
    return Candidate(held, weights.dense(down.names, down.transposed), here)


def _require_fit(mlp: Mlp, predictor: Predictor | GateThreshold) -> None:
    if isinstance(predictor, GateThreshold) or (predictor.b.shape[0], predictor.a.shape[1]) == mlp.sizes:
        return
    found, features = predictor.b.shape[0], predictor.a.shape[1]
    neurons, hidden = mlp.sizes
    raise ArgumentError(
        f"predictor of {mlp.name}",
        f"is for {found} neurons of {features} features, and the MLP has {neurons} of {hidden}",
        "train it for this model",
    )


def _some(names: Mapping[str, object]) -> str:
    listed = list(names)[:3]
    return ", ".join(listed) + (", …" if len(names) > 3 else "") or "none"
