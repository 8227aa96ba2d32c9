"""Masks that move: which weights of a pattern stay zero is learned together with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from sparseflow.finetune.masks import Masks, dropped, pruned_layers
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.statistics import Gathering, gather
from sparseflow.runtime.pattern import Pattern, pattern_of

EVERY = 16
"""Steps between two choices of the masks."""
SETTLED = 0.6
"""The share of a training after which masks stay, so that what is kept can settle."""
ADVANTAGE = 1.05
"""What is kept counts so much more than what is not, so that near ties don't swap at every choice."""


@dataclass
class _Moving:
    """A weight whose mask moves.

    Attributes:
        layer: whose weight it is.
        pattern: of its mask.
        gone: where the weight is zero, bool of the parameter's shape; its place stays.
        hidden: what training made of the weights that are zero, and 0 elsewhere.
        scale: of each input feature, by which magnitudes are compared, ``[K]``.
    """

    layer: Layer
    pattern: Pattern
    gone: Tensor
    hidden: Tensor
    scale: Tensor

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that training changes."""
        found = self.layer.module.weight
        assert isinstance(found, nn.Parameter), "only parameters are trained"
        return found

    def choose(self) -> None:
        """Keep the weights of the greatest scores in each block, of the visible and the hidden ones."""
        whole = self.parameter + self.hidden
        scores = whole.abs().mul_(torch.where(self.gone, 1.0, ADVANTAGE))
        by_row = (scores.t() if self.layer.transposed else scores) * self.scale
        best = self.pattern.prune(by_row, name=self.layer.name) != 0
        self.gone.copy_(~(best.t() if self.layer.transposed else best))
        self.hidden.copy_(whole.masked_fill(~self.gone, 0))
        self.parameter.copy_(whole.masked_fill_(self.gone, 0))


class MovingMasks(Masks):
    """Masks of 2:4, 4:6 or 6:8 that follow what training makes of the weights.

    Gradients pass straight through: the optimiser moves dropped weights as if they took part, and what it
    makes of them is kept beside the model, which never sees it. Every `EVERY` steps each block keeps the
    weights of the greatest magnitude times the norm of their input (the score of Wanda, Sun et al., 2024,
    arXiv 2306.11695) among both, until training is at `SETTLED`. Straight-through training of N:M masks is of
    Zhou et al. (2021, arXiv 2102.04010), with distillation of Huang et al. (2024, arXiv 2407.20584). A weight
    without a pattern keeps its mask.
    """

    _moving: tuple[_Moving, ...] = ()

    def move(self, model: nn.Module, run: Callable[[int], object], calls: int) -> None:
        """Let the masks of a model's layers move.

        Args:
            model: whose masks these are.
            run: runs the model on one of the batches by which inputs are weighed, given its index.
            calls: the number of batches.
        """
        layers = [layer for layer in pruned_layers(model).values() if layer.module.weight in self._dropped]
        with torch.no_grad():
            gathered = gather(layers, run, calls, gram=False)
            self._moving = tuple(self._one(layer, gathered) for layer in layers)

    def _one(self, layer: Layer, gathered: Gathering) -> _Moving:
        pattern = pattern_of(layer.weight)
        assert pattern is not None, "pruned_layers have one"
        norms = gathered[layer.name].norms()
        # A layer that no batch reached, an expert say, is judged by magnitude.
        scale = norms if bool(norms.any()) else torch.ones_like(norms)
        gone = dropped(layer).to(layer.weight.device)
        parameter = layer.module.weight
        assert isinstance(parameter, nn.Parameter), "find_layers says why another one is dense"
        self._dropped[parameter] = gone
        return _Moving(layer, pattern, gone, torch.zeros_like(parameter), scale)

    def stays(self, parameter: nn.Parameter) -> bool:
        """Whether training leaves the mask of a masked parameter as it is."""
        return not any(each.parameter is parameter for each in self._moving)

    @contextmanager
    def held(self, *, updates_vanish: bool = False) -> Iterator[Masks]:
        """Within the block, mask weights after each step, and gradients where masks don't move."""
        with super().held(updates_vanish=updates_vanish):
            hook = register_optimizer_step_post_hook(self._hide)
            try:
                yield self
            finally:
                hook.remove()

    @torch.no_grad()
    def _hide(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Take out of the model what a step made of dropped weights."""
        for each in self._moving:
            each.hidden.add_(torch.where(each.gone, each.parameter, 0.0))
            each.parameter.masked_fill_(each.gone, 0)

    @torch.no_grad()
    def advance(self, step: int, share: float) -> None:
        """Choose masks anew every so many steps, until training is to settle."""
        if step % EVERY == 0 and share < SETTLED:
            for each in self._moving:
                each.choose()

    @torch.no_grad()
    def follow(self) -> None:
        """Take the zeros of the weights as they are now: some of another mask may have been loaded."""
        for each in self._moving:
            each.gone.copy_(each.parameter == 0)
            each.hidden.masked_fill_(~each.gone, 0)
        self.apply()

    def state(self) -> list[Tensor]:
        """Return what training made of dropped weights, by layer, on the CPU."""
        return [each.hidden.cpu() for each in self._moving]

    @torch.no_grad()
    def go_on(self, state: Sequence[Tensor]) -> None:
        """Take what training had made of dropped weights."""
        for each, hidden in zip(self._moving, state, strict=True):
            each.hidden.copy_(hidden)
        self.follow()
