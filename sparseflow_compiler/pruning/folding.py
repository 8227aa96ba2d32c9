"""Permute a layer's input channels at no cost, by permuting the layers that produce them too.

Producers of a layer's inputs are guessed from shapes and verified on the block in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseflow.pruning.calibration import moved
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.offload import device_of
from sparseflow.pruning.permutation import channel_order
from sparseflow.pruning.ria import ria_scores
from sparseflow.pruning.stacks import ATTENTION, Visit, floats
from sparseflow.runtime.pattern import Pattern

_T = TypeVar("_T")

TOLERANCE = 1e-6
"""Relative, of the float64 outputs. Norms that compute in float32 inside a float64 block need that much."""

_HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim", "d_kv")


@dataclass(frozen=True)
class Fold:
    """A layer whose input channels may be permuted, and the rows that are permuted with them.

    Attributes:
        reader: the layer; its inputs are ``heads · repeats · width`` channels.
        writers: each a producing layer and the row where its ``heads · width`` channels begin.
        heads: channels stay within their head; with 1 they may go anywhere.
        repeats: how many heads of the reader share a produced head (grouped-query attention).
        width: channels of a head.
    """

    reader: Layer
    writers: tuple[tuple[Layer, int], ...]
    heads: int
    repeats: int
    width: int

    def order(self, scores: Tensor, pattern: Pattern) -> Tensor:
        """Return the best order within each head, ``[heads, width]``, by scores ``[N, K]``."""
        split = scores.reshape(-1, self.heads, self.repeats, self.width)
        heads = (split[:, head].flatten(0, 1) for head in range(self.heads))
        return torch.stack([channel_order(s, pattern) for s in heads])

    def apply(self, order: Tensor) -> None:
        """Permute the reader's columns and the writers' rows, biases too, in place."""
        starts = torch.arange(self.heads, device=order.device)[:, None] * self.width
        written = (starts + order).flatten()
        read = torch.arange(self.reader.shape[1], device=order.device)
        read = read.reshape(self.heads, self.repeats, self.width)
        read = read.gather(2, order[:, None].expand_as(read)).flatten()
        self.reader.weight.copy_(self.reader.weight[:, read])
        for layer, start in self.writers:
            end = start + len(written)
            layer.weight[start:end] = layer.weight[start:end][written]
            bias = layer.module._parameters.get("bias")
            if bias is not None:
                bias.detach()[start:end] = bias.detach()[start:end][written]

    def of(self, block: nn.Module, twin: nn.Module) -> Fold:
        """Return the fold for a copy of the block."""
        paths = {module: path for path, module in block.named_modules()}

        def counterpart(layer: Layer) -> Layer:
            return replace(layer, module=twin.get_submodule(paths[layer.module]))

        writers = tuple((counterpart(layer), start) for layer, start in self.writers)
        return replace(self, reader=counterpart(self.reader), writers=writers)


def find_folds(
    visit: Visit, readers: Sequence[Layer], groups: Sequence[Sequence[Layer]], unit: int
) -> list[Fold]:
    """Find verified folds for the layers of a block whose input channels can be permuted.

    Args:
        visit: the block.
        readers: layers to permute the inputs of.
        groups: layers of the block that may be permuted, in the order in which it runs them, those with the
            same input together.
        unit: the columns of a block, which must divide the channels of a head.
    """
    rank = {layer.name: place for place, group in enumerate(groups) for layer in group}
    probe = _Probe(visit)
    found = []
    for reader in readers:
        earlier = [layer for group in groups[: rank.get(reader.name, 0)] for layer in group]
        proved = (fold for fold in _guesses(visit, reader, earlier, unit) if probe.proves(fold))
        fold = next(proved, None)
        if fold is not None:
            found.append(fold)
    return found


def fold_channels(folds: Sequence[Fold], norms: dict[str, Tensor], pattern: Pattern) -> None:
    """Permute by RIA's scores, given the L2 norms ``[K]`` of inputs by reader name."""
    for fold in folds:
        fold.apply(fold.order(ria_scores(fold.reader.weight, norms[fold.reader.name]), pattern))


class _Probe:
    """A block in float64 with one batch of inputs and its outputs."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._twin = copy.deepcopy(visit.block).double()
        frame = visit.frames[0]
        device = device_of(visit.block)
        inputs, self._before = moved(_doubled((frame.inputs, visit.given[0])), device)
        self._frame = replace(frame, inputs=inputs)
        self._expected = self._outputs()

    def proves(self, fold: Fold) -> bool:
        """Return whether a random permutation keeps the outputs; if so, the probe stays permuted."""
        state = {name: p.detach().clone() for name, p in self._twin.named_parameters()}
        generator = torch.Generator().manual_seed(0)
        order = [torch.randperm(fold.width, generator=generator) for _ in range(fold.heads)]
        fold.of(self._visit.block, self._twin).apply(torch.stack(order).to(device_of(self._twin)))
        outputs = self._outputs()
        if outputs is not None and self._expected is not None and _same(outputs, self._expected):
            return True
        for name, p in self._twin.named_parameters():
            p.detach().copy_(state[name])
        return False

    def _outputs(self) -> list[Tensor] | None:
        try:
            return floats(self._frame.call(self._twin, self._before))
        except (RuntimeError, TypeError, ValueError):
            return None  # Not every block runs in float64; this one can't be verified.


def _guesses(visit: Visit, reader: Layer, earlier: Sequence[Layer], unit: int) -> Iterator[Fold]:
    k = reader.shape[1]
    names = {module: name for name, module in visit.block.named_modules()}
    attention = {layer.name for layer in earlier if ATTENTION.search(names[layer.module])}
    if k % unit:
        return
    if not ATTENTION.search(names[reader.module]):
        outside = [layer for layer in earlier if layer.name not in attention]
        writers = [(layer, 0) for layer in outside if layer.shape[0] == k]
        if writers:
            yield Fold(reader, tuple(writers), 1, 1, k)
        for layer in outside:
            if layer.shape[0] == 2 * k:  # a gate and its value in one
                yield Fold(reader, ((layer, 0), (layer, k)), 1, 1, k)
        return
    width = _head_size(visit.block)
    if width is None or width % unit:
        return
    for layer in reversed(earlier):  # values come last as a rule
        # The values are a layer of their own, or the last rows of queries, keys and values in one.
        n = layer.shape[0]
        rows = n if n <= k else (n - k) // 2
        if layer.name in attention and rows > 0 and rows % width == 0 and k % rows == 0:
            yield Fold(reader, ((layer, n - rows),), rows // width, k // rows, width)


def _head_size(block: nn.Module) -> int | None:
    for module in block.modules():
        for name in _HEAD_SIZES:
            size = getattr(module, name, None)
            if isinstance(size, int):
                return size
    return None


def _doubled(tree: _T) -> _T:
    def double(leaf: object) -> object:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return cast(_T, pytree.tree_map(double, tree))


def _same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(
        bool(torch.linalg.vector_norm(one - other) <= TOLERANCE * torch.linalg.vector_norm(other))
        for one, other in zip(found, expected, strict=True)
    )
