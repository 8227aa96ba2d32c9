"""Stacks of blocks that run in sequence, replayed block by block on recorded inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.offload import resident
from sparseflow.pruning.statistics import Enough

Slot = int | str
Path = int | None

ATTENTION = re.compile("attn|attention", re.IGNORECASE)
"""Found in what libraries call attention."""

_REPEAT_TOLERANCE = 1e-2
"""Relative: kernels may differ from run to run by their rounding, a cache or dropout makes more of it."""


@dataclass(frozen=True)
class Stack:
    """Blocks that each take the previous one's output.

    Attributes:
        name: of the list that holds them.
        blocks: the modules, in order.
    """

    name: str
    blocks: tuple[nn.Module, ...]

    def layers_of(self, block: nn.Module, layers: Sequence[Layer]) -> list[Layer]:
        """Return those of `layers` that are in `block`."""
        inside = set(block.modules())
        return [layer for layer in layers if layer.module in inside]


class NotAChain(Exception):  # noqa: N818  # caught where it is raised for; never reaches a caller
    """The blocks can't be run one by one; the message says why."""


@dataclass(frozen=True)
class Frame:
    """A recorded call of a block for one batch, without the previous block's output.

    Attributes:
        inputs: values by position or keyword.
        links: the inputs taken from the previous block: its output, or a part of it.
    """

    inputs: dict[Slot, object]
    links: Mapping[Slot, Path]

    def call(self, block: Callable[..., object], before: object) -> object:
        """Run the block on the previous block's output."""
        filled = {
            slot: before if path is None else cast(Sequence[object], before)[path]
            for slot, path in self.links.items()
        }
        inputs = self.inputs | filled
        args = [inputs[slot] for slot in sorted(slot for slot in inputs if isinstance(slot, int))]
        return block(*args, **{slot: value for slot, value in inputs.items() if isinstance(slot, str)})


@dataclass
class _Recording:
    """Inputs and outputs of the blocks for one batch."""

    order: list[int] = field(default_factory=list)
    inputs: list[dict[Slot, object]] = field(default_factory=list)
    outputs: list[object] = field(default_factory=list)


def find_stacks(model: nn.Module, layers: Sequence[Layer]) -> list[Stack]:
    """Return the outermost lists of several blocks that contain some of `layers`.

    They are each an `nn.ModuleList`; in a model that has none of those, an `nn.Sequential`.
    """
    for kind in (nn.ModuleList, nn.Sequential):
        stacks, covered = [], set[nn.Module]()
        for name, module in model.named_modules():
            if not isinstance(module, kind) or module in covered or len(module) < 2:
                continue
            stack = Stack(name, tuple(module))
            if stack.layers_of(module, layers):
                covered.update(module.modules())
                stacks.append(stack)
        if stacks:
            return stacks
    return []


def record(stack: Stack, calibration: Calibration) -> list[list[Frame]]:
    """Run the model on every batch and record the calls of its blocks: ``frames[batch][block]``.

    Raises:
        NotAChain: the blocks don't run once each in order, take more than the previous block's output, or
            aren't reproducible.
    """
    frames = []
    for index in range(len(calibration.calls)):
        recording = _Recording()
        # The first batch shows whether blocks run again after the last one.
        with _recorded(stack, recording, whole=index == 0), suppress(Enough):
            calibration.run(index)
        frames.append(_link(recording, len(stack.blocks)))
        if index == 0:
            _require_same(_replay(stack, frames[0]), recording.outputs[-1])
    return frames


@contextmanager
def _recorded(stack: Stack, recording: _Recording, *, whole: bool) -> Iterator[None]:
    with ExitStack() as hooks:
        for index, block in enumerate(stack.blocks):

            def before(
                module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], index: int = index
            ) -> None:
                recording.order.append(index)
                inputs: dict[Slot, object] = {}
                inputs.update(enumerate(args))
                inputs.update(kwargs.items())
                recording.inputs.append(inputs)

            def after(module: nn.Module, args: tuple[object, ...], output: object) -> None:
                recording.outputs.append(output)
                if not whole and module is stack.blocks[-1]:
                    raise Enough

            hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(block.register_forward_hook(after).remove)
        yield


def _link(recording: _Recording, blocks: int) -> list[Frame]:
    if recording.order != list(range(blocks)):
        raise NotAChain("its blocks don't run once each, in order")
    frames = [Frame(recording.inputs[0], {})]
    earlier: set[int] = set()
    for index in range(1, blocks):
        given = _parts(recording.outputs[index - 1])
        inputs = recording.inputs[index]
        links = {slot: given[id(value)] for slot, value in inputs.items() if id(value) in given}
        rest = {slot: value for slot, value in inputs.items() if slot not in links}
        if not links:
            raise NotAChain(f"block {index} doesn't take what block {index - 1} gives")
        earlier |= given.keys()
        if any(id(leaf) in earlier for leaf in pytree.tree_leaves(rest)):
            raise NotAChain(f"block {index} takes what other blocks than the one before it give")
        frames.append(Frame(rest, links))
    return frames


def _parts(output: object) -> dict[int, Path]:
    """Return the path of each tensor in a block's output, by identity."""
    if isinstance(output, Tensor):
        return {id(output): None}
    if isinstance(output, (tuple, list)):
        return {id(part): place for place, part in enumerate(output) if isinstance(part, Tensor)}
    return {}


def _replay(stack: Stack, frames: Sequence[Frame]) -> object:
    given = None
    for block, frame in zip(stack.blocks, frames, strict=True):
        given = frame.call(block, given)
    return given


def _require_same(found: object, expected: object) -> None:
    for one, other in zip(floats(found), floats(expected), strict=True):
        if one.shape != other.shape or _norm(one - other) > _REPEAT_TOLERANCE * _norm(other):
            raise NotAChain("its blocks give something else when they run again")


def floats(output: object) -> list[Tensor]:
    """Return the floating-point tensors of a module's output."""
    leaves = pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.double()))


@dataclass(frozen=True)
class Visit:
    """One block with its inputs in the model pruned so far, and in the dense model.

    Attributes:
        name: of the block in the model.
        block: the module.
        frames: its recorded call for each batch.
        given: the previous block's output for each batch.
        dense_given: the dense previous block's output; None if not kept.
    """

    name: str
    block: nn.Module
    frames: Sequence[Frame]
    given: Sequence[object]
    dense_given: Sequence[object] | None = None

    def call(self, batch: int, block: Callable[..., object] | None = None) -> object:
        """Run the block, or a replacement, on the pruned model's activations."""
        return self.frames[batch].call(block or self.block, self.given[batch])

    def call_dense(self, batch: int, block: Callable[..., object] | None = None) -> object:
        """Run the block, or a replacement, on the dense model's activations."""
        assert self.dense_given is not None, "asked for in walk"
        return self.frames[batch].call(block or self.block, self.dense_given[batch])


def walk(
    stack: Stack,
    frames: Sequence[list[Frame]],
    visit: Callable[[Visit], None],
    *,
    dense: bool = False,
    device: torch.device | None = None,
) -> None:
    """Visit the blocks in order; each block's new outputs become the next one's inputs.

    Args:
        stack: the blocks.
        frames: from `record`; consumed.
        visit: called for each block.
        dense: whether to keep the dense blocks' outputs too.
        device: where each block is while it is visited; None leaves it where it is.
    """
    given: list[object] = [None] * len(frames)
    dense_given: list[object] | None = [None] * len(frames) if dense else None
    for index, block in enumerate(stack.blocks):
        own = [batch_frames[index] for batch_frames in frames]
        last = index + 1 == len(stack.blocks)
        with resident(block, device):
            outputs = _outputs(block, own, dense_given) if dense_given and not last else None
            visit(Visit(f"{stack.name}.{index}", block, own, given, dense_given))
            dense_given = outputs
            if not last:
                given = _outputs(block, own, given)
        for frame in own:
            frame.inputs.clear()


def _outputs(block: nn.Module, frames: Sequence[Frame], given: Sequence[object]) -> list[object]:
    return [frame.call(block, before) for frame, before in zip(frames, given, strict=True)]
