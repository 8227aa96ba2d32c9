"""Train a block's kept weights to match the dense outputs of the block or its attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparseflow.errors import ArgumentError
from sparseflow.pruning.linear_layers import Layer
from sparseflow.pruning.prune_options import Reconstruct
from sparseflow.pruning.stacks import ATTENTION, Frame, Path, Slot, Visit, floats
from sparseflow.runtime.calling.recorded_step import RecordedStep

_RATE = 0.02
"""The learning rate over a parameter's root mean square."""
_WARM_UP = 20

Values = dict[str, Tensor]


class Refinement:
    """The layers of a block to train together, and their target outputs.

    Args:
        visit: the block, with what the dense model gives.
        twin: the dense block.
        layers: the block's pruned layers.
        what: ``"attention"``: train the layers inside the block's attention, to meet the attention's outputs;
            ``"mlp"``: the other layers, to meet the block's outputs; ``"block"``: all, to meet those.
    """

    def __init__(self, visit: Visit, twin: nn.Module, layers: Sequence[Layer], what: Reconstruct) -> None:
        self._visit = visit
        self._where = ""
        if what != "block":
            attention = attention_name(visit.name, visit.block)
            inside = set(visit.block.get_submodule(attention).modules())
            layers = [layer for layer in layers if (layer.module in inside) == (what == "attention")]
            self._where = attention if what == "attention" else ""
        self._targets = list(self._outputs(twin, visit.call_dense))
        self._weights = _token_weights(self._targets)
        chosen = {id(p) for layer in layers for p in layer.module.parameters(recurse=False)}
        self._parameters = {name: p for name, p in visit.block.named_parameters() if id(p) in chosen}

    def run(self, steps: int, seed: int) -> None:
        """Train by Adam, a batch a step, and keep the result if the outputs' weighted squared error fell.

        Args:
            steps: number of steps.
            seed: of the order of the batches.
        """
        if not self._parameters:
            return
        masters = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32)).clone().requires_grad_()
            for name, p in self._parameters.items()
        }
        device = next(iter(masters.values())).device
        optimizer = _adam(masters.values(), device)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / _WARM_UP) * (1 - step / steps)
        )

        def update(*sample: Any) -> Tensor:
            loss = self._loss(self._cast(masters), *sample)
            # A batch may not reach an expert of the block.
            gradients = torch.autograd.grad(loss, list(masters.values()), materialize_grads=True)
            for p, gradient in zip(masters.values(), gradients, strict=True):
                p.grad = gradient
            optimizer.step()
            return loss.detach()

        before = self._error({})
        step = RecordedStep(update, device)
        with torch.enable_grad():
            for batch in _order(len(self._targets), steps, seed):
                step(*self._sample(batch))
                schedule.step()
        values = self._cast(masters)
        if self._error(values) < before:
            for name, p in self._parameters.items():
                # Adding 0 turns -0.0 into 0.0.
                p.copy_(values[name]).add_(0.0)

    def _cast(self, masters: Values) -> Values:
        """Cast master weights for the block; pruned weights stay zero and get no gradient."""
        return {
            name: (masters[name] * (p != 0) if p.dim() > 1 else masters[name]).to(p.dtype)
            for name, p in self._parameters.items()
        }

    def _error(self, values: Values) -> float:
        return sum(float(self._loss(values, *self._sample(batch))) for batch in range(len(self._targets)))

    def _sample(self, batch: int) -> tuple[dict[Slot, object], Mapping[Slot, Path], object, Tensor, Tensor]:
        """Return the block's call for a batch, what it takes from the block before, target and weights."""
        frame, target = self._visit.frames[batch], self._targets[batch]
        return frame.inputs, frame.links, self._visit.given[batch], target, self._weights[batch]

    def _loss(
        self,
        values: Values,
        inputs: dict[Slot, object],
        links: Mapping[Slot, Path],
        given: object,
        target: Tensor,
        weights: Tensor,
    ) -> Tensor:
        def run(*args: object, **kwargs: object) -> object:
            return functional_call(self._visit.block, values, args, kwargs)

        with _captured(self._visit.block, self._where) as outputs:
            Frame(inputs, links).call(run, given)
        device = outputs[0].device
        lost = (outputs[0].float() - target.to(device).float()).square().sum(-1)
        return (lost * weights.to(device)).sum()

    def _outputs(self, block: nn.Module, call: Callable[[int, nn.Module], object]) -> Iterator[Tensor]:
        for batch in range(len(self._visit.frames)):
            with _captured(block, self._where) as outputs:
                call(batch, block)
            yield outputs[0]


def _token_weights(targets: Sequence[Tensor]) -> list[Tensor]:
    """Return what the squared error of each token, ``[…]``, is multiplied by.

    That is one over the squared length of its target, so that long tokens don't count for all: in many
    language models the first one is hundreds of times as long as the others (massive activations, Sun et
    al., 2024, arXiv 2402.17762). Of targets shorter than the median it is the median's.
    """
    powers = [target.float().square().sum(-1) for target in targets]
    flat = torch.cat([power.flatten() for power in powers])
    if not flat.numel():
        return powers
    typical = flat.median().clamp(min=1e-30)
    return [len(targets) / flat.numel() / power.clamp(min=typical) for power in powers]


@contextmanager
def _captured(block: nn.Module, where: str) -> Iterator[list[Tensor]]:
    """Record the first floating-point output of each call of a submodule; "" is the block itself."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        outputs.append(floats(output)[0])

    handle = block.get_submodule(where).register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def attention_name(name_of_block: str, block: nn.Module) -> str:
    """Return the name of a block's outermost submodule called attention.

    Raises:
        ArgumentError: there is none.
    """
    for name, _ in block.named_modules():
        if ATTENTION.search(name):
            return str(name)
    raise ArgumentError(
        f"sf.prune(reconstruct=…), block {name_of_block}",
        "'attention' and 'mlp' need a submodule whose name has 'attn' or 'attention' in it",
        "pass reconstruct='block'",
    )


def _order(batches: int, steps: int, seed: int) -> Iterator[int]:
    """Yield batch indices in random order, reshuffled for each pass."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(batches, generator=generator).tolist()
        yield order.pop()


def _adam(masters: Iterable[Tensor], device: torch.device) -> torch.optim.Adam:
    """Return Adam with a learning rate for each parameter; on a GPU, one that a CUDA graph may hold."""
    groups: list[dict[str, object]] = [
        {"params": [master], "lr": _RATE * _root_mean_square(master)} for master in masters
    ]
    if device.type != "cuda":
        return torch.optim.Adam(groups, betas=(0.9, 0.95))
    for group in groups:
        group["lr"] = torch.tensor(group["lr"], device=device)
    return torch.optim.Adam(groups, betas=(0.9, 0.95), fused=True, capturable=True)


def _root_mean_square(values: Tensor) -> float:
    kept = values.detach()[values.detach() != 0]
    return float(kept.double().square().mean().sqrt()) if kept.numel() else 0.0
