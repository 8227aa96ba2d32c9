"""`sparseflow.train_predictor`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparseflow.contextual.judging import judge, selected
from sparseflow.contextual.model_mlps import ModelMlp, find_model_mlps, named
from sparseflow.contextual.predictors import MlpPredictor, Predictors
from sparseflow.contextual.scorer import Fit, fit
from sparseflow.contextual.selection import Rule, count_of, parameter_for, top
from sparseflow.errors import ArgumentError, CalibrationError
from sparseflow.integrations.transformers.static_caches import without_cache
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.statistics import nonfinite_inputs, watching
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.runtime.contextual import Predictor
from sparseflow.runtime.contextual.by_gate import GateThreshold
from sparseflow.support.arguments import require_one_of
from sparseflow.support.grad_mode import require_gradients
from sparseflow.support.progress import Step, progress_bars

PredictorDtype = Literal["float32", "bfloat16", "float16", "int8"]
Rates = float | Mapping[str, float]

HELD_OUT = 0.2
"""The share of rows that rules are set and figures measured on, and nothing is trained on."""

FEWEST_ROWS = 16


@dataclass(frozen=True)
class TrainOptions:
    """How predictors are trained; `train_predictor` says what each means."""

    rate: Rates = 0.25
    rank: int | None = None
    rule: Rule = "top_k"
    tokens: int = 4096
    steps: int = 300
    dtype: PredictorDtype = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        for share in self.rate.values() if isinstance(self.rate, Mapping) else [self.rate]:
            if not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise _wrong("rate", share, "must be a share of the neurons, above 0 and at most 1")
        require_one_of("train_predictor", "rule", self.rule, get_args(Rule))
        require_one_of("train_predictor", "dtype", self.dtype, get_args(PredictorDtype))
        least = {"rank": 1, "tokens": FEWEST_ROWS, "steps": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if (name, value) != ("rank", None) and not (isinstance(value, int) and value >= low):
                raise _wrong(name, value, f"must be a whole number of at least {low}")

    def rate_of(self, name: str) -> float | None:
        """Return the target rate of an MLP; None if no pattern matches."""
        if not isinstance(self.rate, Mapping):
            return self.rate
        return next((share for pattern, share in self.rate.items() if fnmatchcase(name, pattern)), None)

    def rank_of(self, mlp: ModelMlp) -> int:
        """Return the rank of an MLP's predictor."""
        neurons, hidden = mlp.sizes
        return min(hidden, neurons, self.rank or usual_rank(neurons))


def usual_rank(neurons: int, share: float = 0.04) -> int:
    """Return the default rank of a predictor: a share of the neurons.

    From 16 on a multiple of 16, which aligns the second factor's rows in any dtype.
    """
    rank = max(1, math.ceil(share * neurons))
    return rank if rank < 16 else -(-rank // 16) * 16


def _wrong(name: str, value: object, rule: str) -> ArgumentError:
    return ArgumentError(f"sf.train_predictor({name}={value!r})", rule)


def train_predictor(
    model: nn.Module,
    calibration: Iterable[object],
    *,
    rate: Rates = 0.25,
    rank: int | None = None,
    rule: Rule = "top_k",
    tokens: int = 4096,
    steps: int = 300,
    dtype: PredictorDtype = "bfloat16",
    seed: int = 0,
    progress: bool | None = None,
) -> Predictors:
    """Train predictors of the neurons that a token needs, for each MLP of a model.

    The inputs are those that the MLPs see when the model runs on `calibration`. The neurons that a token
    needs are those with the largest contributions, |activation| · ‖column of down‖, as many as the target
    rate says. A predictor scores all neurons by two small matrices, H → r → I; it starts as the
    least-squares estimate of rank r and is then trained by the binary cross-entropy, both classes weighing
    the same.

    Args:
        model: in evaluation mode; unchanged.
        calibration: batches to run it on: each a tensor (the first positional input), a tuple (positional
            inputs) or a mapping (keyword inputs).
        rate: the share of neurons to select; or shares by fnmatch patterns over the names of the MLPs' up
            layers, of which the first that matches counts: an MLP that none matches stays dense.
        rank: r; ``None``: 4% of the neurons, as `usual_rank` rounds it.
        rule: how neurons are selected. By scores: ``"top_k"`` selects the same number for every token;
            ``"threshold"`` (a score) and ``"statistical"`` (a number of standard deviations above the token's
            mean score) select more for some tokens than for others, the rate on average. ``"gate"`` trains
            nothing: the gate is computed for all neurons, and up and down for those whose activations exceed
            a threshold, which is set for each MLP; without a gate up is computed for all.
        tokens: the most tokens to look at; a fifth of them serve to set the rule and to measure.
        steps: of training; 0 leaves the least squares.
        dtype: of the predictor's matrices, which are read for every token.
        seed: of the order of tokens. Results repeat on the same machine.
        progress: a progress bar on stderr; ``None``: only on a terminal.

    Returns:
        The predictors with their figures, for ``sf.compile(model, contextual=…)``.

    Raises:
        ArgumentError: an option or calibration has a wrong value, the model has no MLP that can become
            contextual, `rate` names none, or the call is within `torch.inference_mode`.
        InferenceOnlyError: the model is in training mode.
        CaptureError: torch.export can't capture the model for the first batch.
        CalibrationError: the model refuses a batch, an MLP's inputs hold NaN or Inf, or are too few.
    """
    options = TrainOptions(rate, rank, rule, tokens, steps, dtype, seed)
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "sf.train_predictor(model)", f"model must be a torch.nn.Module, not {type(model).__name__}"
        )
    require_uncompiled(model, "sf.train_predictor(model)")
    if options.rule != "gate" and options.steps:
        require_gradients("sf.train_predictor")
    batches = Calibration.of(model, calibration)
    mlps = _chosen(model, batches, options)
    with progress_bars(progress) as bars, torch.no_grad():
        inputs = observe(batches, mlps, options.tokens, bars.stage("run"))
        step = bars.stage("train")
        trained = {}
        for done, mlp in enumerate(mlps):
            step(done, len(mlps), mlp.name)
            trained[mlp.name] = _train(mlp, inputs.pop(mlp.name), options)
        step(len(mlps), len(mlps))
    return Predictors(trained)


def _chosen(model: nn.Module, batches: Calibration, options: TrainOptions) -> list[ModelMlp]:
    found = find_model_mlps(model, *batches.calls[0])
    if not found:
        raise ArgumentError(
            "sf.train_predictor(model)",
            "has no MLP that can become contextual",
            "see the reasons in sf.compile(model, contextual=…).report",
        )
    chosen = [mlp for mlp in found if options.rate_of(mlp.name) is not None]
    if not chosen:
        raise _wrong("rate", options.rate, f"names none of the model's MLPs: {named(found)}")
    return chosen


def observe(calibration: Calibration, mlps: Sequence[ModelMlp], rows: int, step: Step) -> dict[str, Tensor]:
    """Collect inputs of MLPs by name, ``[rows, H]`` in the model's dtype, spread over all batches.

    Raises:
        CalibrationError: the model refuses a batch, or inputs hold NaN or Inf, or are too few.
    """
    calls = len(calibration.calls)
    share = -(-rows // calls)
    seen: dict[str, list[Tensor]] = {mlp.name: [] for mlp in mlps}

    def see(layer: Layer, x: Tensor) -> None:
        flat = x.detach().reshape(-1, x.shape[-1])
        if not flat.isfinite().all():
            raise nonfinite_inputs(layer.name)
        seen[layer.name].append(flat[:: max(1, len(flat) // share)][:share].clone())

    with without_cache(calibration.model), watching([mlp.layer for mlp in mlps], see):
        for index in range(calls):
            calibration.run(index)
            step(index + 1, calls, "batches")
    inputs = {name: torch.cat(parts) if parts else torch.empty(0, 0) for name, parts in seen.items()}
    for name, x in inputs.items():
        if len(x) < FEWEST_ROWS:
            raise CalibrationError(
                f"layer {name}",
                f"saw {len(x)} tokens, fewer than {FEWEST_ROWS}",
                "pass more or longer batches",
            )
    return inputs


def split(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shuffle and split rows into training and held-out ones, in float32."""
    order = torch.randperm(len(x), generator=generator).to(x.device)
    held = max(FEWEST_ROWS // 2, int(HELD_OUT * len(x)))
    return x[order[held:]].float(), x[order[:held]].float()


def _train(mlp: ModelMlp, x: Tensor, options: TrainOptions) -> MlpPredictor:
    generator = torch.Generator().manual_seed(options.seed)
    rate = options.rate_of(mlp.name)
    assert rate is not None, "chosen for it"
    train, held = split(x, generator)
    if options.rule == "gate":
        return _gate(mlp, torch.cat((train, held)), rate, generator)
    labels = top(mlp.contributions(mlp.hidden(train)), rate)
    actual = count_of(rate, mlp.sizes[0]) / mlp.sizes[0]
    how = Fit(options.rank_of(mlp), min(max(actual, 1e-3), 1 - 1e-3), options.steps)
    a, b, bias = fit(train, labels, how, generator)
    scorer = stored(a, b, bias, options.dtype)
    parameter = parameter_for(scorer.scores(held), options.rule, rate)
    predictor = dataclasses.replace(scorer, rule=options.rule, parameter=parameter)
    mask = selected(*predictor.select(held, per_row=True))
    return MlpPredictor(predictor, rate, judge(mlp, held, mask, rate, generator))


def _gate(mlp: ModelMlp, x: Tensor, rate: float, generator: torch.Generator) -> MlpPredictor:
    """Fit the threshold of an MLP's activations."""
    active = mlp.gates(x).abs()
    threshold = parameter_for(active, "threshold", rate)
    return MlpPredictor(GateThreshold(threshold), rate, judge(mlp, x, active > threshold, rate, generator))


def stored(a: Tensor, b: Tensor, bias: Tensor | None, dtype: PredictorDtype) -> Predictor:
    """Return a scorer in its storage dtype, with the rule not set yet."""
    made = Predictor(a, b, bias, "threshold", 0.0)
    return made.quantized() if dtype == "int8" else made.to(dtype=getattr(torch, dtype))
