"""What sparsity costs a language model: perplexity, and changed next tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import sparseflow as sf
from sparseflow.contextual.activations.inputs import (
    SharedInput,
    changing,
    shared_inputs,
    without_small,
)

WINDOW = 256
"""Tokens that are read at once; each is scored once, with at least half a window of context."""


@dataclass(frozen=True)
class Cost:
    """What a sparse form of a model costs on a text.

    Attributes:
        perplexity: of the sparse form.
        dense: that of the dense model.
        same: the share of tokens before which both find the same next token the most likely.
        tokens: how many were scored.
    """

    perplexity: float
    dense: float
    same: float
    tokens: int

    @property
    def rise(self) -> float:
        """Perplexity over the dense model's, less one."""
        return self.perplexity / self.dense - 1


class LeavingOut(nn.Module):
    """An eager model whose layers leave out small inputs of every token, as compiled ones do in decoding.

    Compiled programs read prompts in full, so that they can't be scored on a text that is read at once.

    Args:
        model: the dense model.
        thresholds: of its layers.
        example: token ids `[1, tokens]`.
    """

    def __init__(self, model: nn.Module, thresholds: sf.ActivationThresholds, example: Tensor) -> None:
        super().__init__()
        self.model, self._thresholds = model, thresholds
        self._inputs = shared_inputs(model, sf.DEFAULT_SKIP, lambda: model(example))
        self.eval()

    def forward(self, input_ids: Tensor) -> Any:
        """Return the model's output for ids `[batch, tokens]`."""
        with changing(self._inputs, self._without_small):
            return self.model(input_ids)

    def _without_small(self, shared: SharedInput, layer: object, x: Tensor) -> Tensor | None:
        if shared.name not in self._thresholds:
            return None
        return without_small(x, self._thresholds[shared.name].threshold)


def cost(sparse: nn.Module, dense: nn.Module, tokens: Tensor) -> Cost:
    """Measure what a sparse form of a model costs on tokens `[tokens]`."""
    options: dict[str, Any] = {"window": WINDOW, "batch": 2, "progress": False}
    theirs, ours = (sf.evaluation.perplexity(model, tokens, **options) for model in (dense, sparse))
    agreed = sf.evaluation.agreement(sparse, dense, tokens, **options)
    return Cost(ours.perplexity, theirs.perplexity, agreed.top1, ours.tokens)


def pruned_at_once(model: nn.Module, windows: Sequence[Tensor]) -> nn.Module:
    """Return a copy of a model that Wanda made 2:4 on windows `[1, tokens]`, without any recovery."""
    pruned = copy.deepcopy(model)
    sf.prune(pruned, "wanda", windows, progress=False)
    return pruned
