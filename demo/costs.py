"""What sparsity costs a language model: perplexity, and changed next tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.contextual.activations.inputs import SharedInput, changing, shared_inputs
from sparseflow.runtime.contextual.column import SINKS, without_small

WINDOW = 256
"""Tokens that are read at once."""


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


@dataclass(frozen=True)
class Predicted:
    """What a model predicts of a text.

    Attributes:
        nats: the mean negative log-likelihood of the scored tokens.
        likeliest: the most likely token in the place of each, `[tokens]`.
    """

    nats: float
    likeliest: Tensor


@torch.no_grad()
def predicted(model: nn.Module, tokens: Tensor) -> Predicted:
    """Return what a model predicts of tokens `[tokens]`, in windows of which the first few aren't scored.

    Those are read in full, and have little context. Perplexity and agreement come from the same pass here;
    `sparseflow.evaluation` has both for a longer text.
    """
    losses, likeliest = [], []
    for window in torch.split(tokens, WINDOW):
        logits = model(window[None]).logits[0, SINKS:-1].float()
        losses.append(F.cross_entropy(logits, window[SINKS + 1 :], reduction="none"))
        likeliest.append(logits.argmax(-1))
    return Predicted(float(torch.cat(losses).mean()), torch.cat(likeliest))


def cost(sparse: Predicted, dense: Predicted) -> Cost:
    """Return what a sparse form of a model costs, by what both predict of a text."""
    same = float((sparse.likeliest == dense.likeliest).float().mean())
    return Cost(math.exp(sparse.nats), math.exp(dense.nats), same, len(dense.likeliest))


def pruned_at_once(model: nn.Module, windows: Sequence[Tensor]) -> nn.Module:
    """Return a copy of a model that Wanda made 2:4 on windows `[1, tokens]`, without any recovery."""
    pruned = copy.deepcopy(model)
    sf.prune(pruned, "wanda", windows, progress=False)
    return pruned
