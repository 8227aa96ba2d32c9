"""`sparseflow.calibrate_activations`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.contextual.activations.activation_thresholds import (
    ActivationThresholds,
    Calibrated,
    LayerThreshold,
)
from sparseflow.contextual.activations.divergence import costs
from sparseflow.contextual.activations.inputs import SharedInput, changing, shared_inputs
from sparseflow.contextual.activations.magnitudes import Magnitudes
from sparseflow.contextual.activations.rates import RATES, STEP, cheapest_rates
from sparseflow.errors import ArgumentError, CalibrationError, InferenceOnlyError
from sparseflow.integrations.transformers.models import own_tokenizer
from sparseflow.integrations.transformers.own_text import own_tokens
from sparseflow.integrations.transformers.static_caches import without_cache
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.statistics import nonfinite_inputs
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.contextual.column import SINKS, without_small
from sparseflow.support.arguments import require_patterns, with_defaults
from sparseflow.support.grad_mode import require_gradients
from sparseflow.support.progress import progress_bars
from sparseflow.support.training_mode import trained_part

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, PreTrainedTokenizerBase

SELF = "self"
_SEARCHES = 6
"""Rates that are tried for a loss: halving, they lie within 1.5%."""
_FEWEST = 64
"""Tokens."""


def calibrate_activations(
    model: nn.Module,
    text: str | Sequence[str] | Sequence[Tensor] | Tensor = SELF,
    *,
    loss: float | None = None,
    rate: float | ActivationThresholds | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokens: int = 4096,
    window: int = 512,
    skip: Sequence[str] = (),
    skip_defaults: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> ActivationThresholds:
    """Choose for each linear layer of a language model the threshold below which it leaves out its inputs.

    Layers that read the same input share its threshold. What leaving inputs out costs is estimated for every
    layer and share of inputs from one backward pass (`divergence`); then the shares are chosen that cost
    least for the bytes that they save (`rates`). Thresholds are quantiles of the magnitudes that the layers
    see; no input is kept. The first four tokens of a sequence, on which models park attention, are read in
    full, as prompts are when the model is compiled. The idea is TEAL's (Liu et al., 2024, arXiv 2408.14690),
    the estimate another.

    Args:
        model: a causal language model in evaluation mode, whose call takes token ids and returns logits
            ``[rows, tokens, vocabulary]`` or an object that has them; unchanged.
        text: to choose on: a text, or several; token ids ``[tokens]`` or ``[rows, tokens]``, or a list of
            such; or ``"self"``: the model answers some requests in its chat template.
        loss: how much the perplexity on the text may rise: 0.02 allows 2%, the default if no rate is given.
        rate: instead of it, the share of the layers' weights that is left out for a token. Or thresholds, of
            which each layer keeps its share: for a model that was recovered with them.
        tokenizer: of texts and of the chat template; None reads it from the folder that the model was loaded
            from.
        tokens: the most to look at.
        window: the most tokens of one sequence.
        skip: fnmatch patterns over layer names that read every input, besides those of `DEFAULT_SKIP`.
        skip_defaults: ``False`` leaves `DEFAULT_SKIP` out.
        seed: of what is drawn. Results repeat on the same machine.
        progress: a progress bar on stderr; ``None``: only on a terminal.

    Returns:
        The thresholds, for ``sf.compile(model, contextual=…)``.

    Raises:
        ArgumentError: an option has a wrong value, there is no tokenizer, no layer to choose for, or the call
            is within `torch.inference_mode`.
        InferenceOnlyError: the model is in training mode.
        CalibrationError: the model refuses the tokens, returns no logits, or a layer's inputs hold NaN or
            Inf.
    """
    options = ChoiceOptions(loss, rate, tokens, window, with_defaults(skip, skip_defaults), seed)
    _require_model(model)
    require_patterns("calibrate_activations", skip)
    with progress_bars(progress) as bars, without_cache(model):
        source, windows = _windows(model, text, tokenizer, options)
        choice = ThresholdChoice(model, windows, options)
        choice.measure(functools.partial(bars.stage("activations"), total=len(windows)))
        return choice.thresholds(choice.chosen(), source)


@dataclass(frozen=True)
class ChoiceOptions:
    """The options, checked."""

    loss: float | None
    rate: float | ActivationThresholds | None
    tokens: int
    window: int
    skip: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        if self.loss is not None and self.rate is not None:
            raise _wrong("loss", self.loss, "can't be given along with rate: one follows from the other")
        if self.loss is not None and not 0 < self.loss < 10:
            raise _wrong("loss", self.loss, "must be a rise of the perplexity above 0, such as 0.02")
        if not (self.rate is None or isinstance(self.rate, ActivationThresholds) or _is_share(self.rate)):
            rule = f"must be a share above 0 and at most {float(RATES[-1]):.2f}, or thresholds"
            raise _wrong("rate", self.rate, rule)
        if self.window <= 2 * SINKS or self.tokens < _FEWEST:
            raise _wrong("tokens", self.tokens, f"needs tokens ≥ {_FEWEST} and window > {2 * SINKS}")


def _is_share(rate: object) -> bool:
    return isinstance(rate, (int, float)) and 0 < rate <= float(RATES[-1])


def _wrong(name: str, value: object, rule: str) -> ArgumentError:
    return ArgumentError(f"sf.calibrate_activations({name}={value!r})", rule)


def _require_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "sf.calibrate_activations(model)", f"model must be a torch.nn.Module, not {type(model).__name__}"
        )
    require_gradients("sf.calibrate_activations")
    require_uncompiled(model, "sf.calibrate_activations(model)")
    if (training := trained_part(model)) is not None:
        rule = f"{training or 'the model'} is in training mode: dropout would calibrate"
        raise InferenceOnlyError("sf.calibrate_activations(model)", rule, "model.eval()")


def _windows(
    model: nn.Module,
    text: str | Sequence[str] | Sequence[Tensor] | Tensor,
    tokenizer: PreTrainedTokenizerBase | None,
    options: ChoiceOptions,
) -> tuple[str, list[Tensor]]:
    """Return what the text is, and its windows ``[1, S]`` on the model's device."""
    if isinstance(text, str) and text == SELF:
        written = own_tokens(
            cast("PreTrainedModel", model),
            tokenizer or own_tokenizer(model),
            options.tokens,
            options.window,
            options.seed,
        )
        return SELF, written
    parts = [text] if isinstance(text, (str, Tensor)) else list(text)
    ids = [part for part in parts if isinstance(part, Tensor)]
    source, streams = "tokens", [row for part in ids for row in part.reshape(-1, part.shape[-1])]
    if len(ids) != len(parts):
        tokenizer = tokenizer or own_tokenizer(model)
        if ids or tokenizer is None:
            raise _wrong("tokenizer", None, "is needed for text: pass it, or token ids instead of text")
        source, streams = "text", [torch.as_tensor(tokenizer(part)["input_ids"]) for part in parts]
    return source, _cut(streams, options, device_of(model))


def _cut(streams: Sequence[Tensor], options: ChoiceOptions, device: torch.device) -> list[Tensor]:
    parts = [part for stream in streams for part in torch.split(stream, options.window)]
    long = [part.to(device)[None] for part in parts if len(part) > 2 * SINKS]
    found: list[Tensor] = []
    for part in long:
        if sum(one.shape[1] for one in found) < options.tokens:
            found.append(part)
    if sum(part.shape[1] for part in found) < _FEWEST:
        raise ArgumentError(
            "sf.calibrate_activations(text)", f"has fewer than {_FEWEST} tokens", "give some thousands"
        )
    return found


class ThresholdChoice:
    """A model, its windows, and what was seen of its layers' inputs."""

    def __init__(self, model: nn.Module, windows: Sequence[Tensor], options: ChoiceOptions) -> None:
        self.model, self.windows, self.options = model, windows, options
        self.inputs = shared_inputs(model, options.skip, lambda: self.logits(windows[0]))
        self.weights = torch.tensor([shared.weights for shared in self.inputs], dtype=torch.float64)
        self.limits = torch.empty(0)
        self.costs = torch.empty(0)
        self.dense = 0.0

    def logits(self, window: Tensor) -> Tensor:
        """Return the logits ``[1, S, V]`` of a window."""
        try:
            output = self.model(window)
        except Exception as error:
            raise CalibrationError(
                "sf.calibrate_activations(model)",
                f"the model refuses the tokens: {type(error).__name__}: {error}",
                "pass a causal language model and its token ids",
            ) from error
        found = getattr(output, "logits", output)
        if not isinstance(found, Tensor) or found.shape[:2] != window.shape:
            raise CalibrationError(
                "sf.calibrate_activations(model)",
                "the model returns no logits [rows, tokens, vocabulary]",
                "pass a causal language model",
            )
        return found

    def measure(self, step: Callable[[int], None]) -> None:
        """See all inputs, and estimate what leaving them out costs.

        Args:
            step: called with the number of windows that are done.
        """
        self.observe()
        torch.manual_seed(self.options.seed)
        self.costs = costs(self.model, self.inputs, self.limits, self.windows, self.logits, step)

    def observe(self) -> None:
        """See all inputs, without an estimate of what leaving them out costs: equal shares need none."""
        self.dense = self._observe()
        self.costs = torch.zeros_like(self.limits)

    def equal(self, rate: float) -> list[int]:
        """Return the index of the nearest share in `RATES` for every input."""
        return [min(round(rate / STEP), len(RATES) - 1)] * len(self.inputs)

    def chosen(self) -> list[int]:
        """Return for each input an index in `RATES`, as the options say."""
        options = self.options
        if isinstance(options.rate, ActivationThresholds):
            return self.keeping(options.rate)
        if options.rate is not None:
            return self.saving(options.rate)
        return self.within(0.02 if options.loss is None else options.loss)

    def keeping(self, thresholds: ActivationThresholds) -> list[int]:
        """Return the index of the share in `RATES` that each input has in thresholds; 0 if it has none."""
        shares = [
            thresholds[shared.name].rate if shared.name in thresholds else 0.0 for shared in self.inputs
        ]
        return [min(round(share / STEP), len(RATES) - 1) for share in shares]

    def saving(self, rate: float) -> list[int]:
        """Return for each input an index in `RATES`, so that together they save a share of the bytes."""
        return cheapest_rates(self.costs, self.weights, rate)

    def within(self, rise: float) -> list[int]:
        """Return the largest rates at which the measured perplexity rises by at most a share."""
        low, high = 0.0, float(RATES[-1])
        best = [0] * len(self.inputs)
        for _ in range(_SEARCHES):
            middle = (low + high) / 2
            chosen = self.saving(middle)
            if self._loss(chosen) - self.dense <= math.log1p(rise):
                low, best = middle, chosen
            else:
                high = middle
        return best

    def thresholds(self, chosen: Sequence[int], source: str) -> ActivationThresholds:
        """Return the thresholds of chosen rates; their loss is measured."""
        layers = {
            layer.name: LayerThreshold(
                float(self.limits[place, index]),
                float(RATES[index]),
                float(self.costs[place, index]),
                layer.shape,
            )
            for place, (shared, index) in enumerate(zip(self.inputs, chosen, strict=True))
            for layer in shared.layers
            if index
        }
        rise = self._loss(chosen) - self.dense
        saved = float((self.weights * RATES[chosen]).sum() / self.weights.sum())
        seen = sum(window.shape[1] for window in self.windows)
        return ActivationThresholds(layers, Calibrated(source, seen, saved, rise, math.exp(rise)))

    def _observe(self) -> float:
        """See the magnitudes of all inputs; return the dense loss."""
        seen = {shared.name: Magnitudes(self.windows[0].device) for shared in self.inputs}

        def see(shared: SharedInput, layer: Layer, x: Tensor) -> None:
            if layer is shared.layers[0]:
                seen[shared.name].add(x[..., SINKS:, :])

        with changing(self.inputs, see):
            loss = self._nats()
        for shared in self.inputs:
            if not seen[shared.name].is_finite:
                raise nonfinite_inputs(shared.name)
        self.limits = torch.stack([seen[shared.name].quantiles(RATES) for shared in self.inputs])
        return loss

    def _loss(self, chosen: Sequence[int]) -> float:
        """Return the loss with the inputs left out, nats a token."""
        limit = {
            shared.name: float(self.limits[place, index])
            for place, (shared, index) in enumerate(zip(self.inputs, chosen, strict=True))
        }
        with changing(self.inputs, lambda shared, _, x: without_small(x, limit[shared.name])):
            return self._nats()

    @torch.no_grad()
    def _nats(self) -> float:
        total, count = 0.0, 0
        for window in self.windows:
            predicted = self.logits(window)[0, SINKS:-1].float()
            total += F.cross_entropy(predicted, window[0, SINKS + 1 :], reduction="sum").item()
            count += len(predicted)
        return total / max(count, 1)
