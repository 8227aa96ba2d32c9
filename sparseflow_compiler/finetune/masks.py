"""Masked training: keep pruned weights zero through every optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from sparseflow.errors import ArgumentError
from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.runtime.pattern import pattern_of

_Hook = Callable[[nn.Parameter], None]


class Masks:
    """The positions of a model's pruned weights that training must keep at zero.

    Args:
        layers: layers whose weights have a pattern, by name.

    Attributes:
        layers: names of the masked layers, in the order of the model's modules.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers = tuple(layers)
        self._dropped = {_parameter(layer): dropped(layer) for layer in layers.values()}

    @classmethod
    def of(cls, model: nn.Module) -> Masks:
        """Make masks of every linear layer whose weight is 2:4, 4:6 or 6:8 already.

        Of the sparsest pattern that a weight has, each block along K keeps as many positions: its nonzeros
        and, if they are fewer, the first zeros, which may become nonzero in training. Layers without a
        pattern, or all zero, train freely.

        Raises:
            ArgumentError: no layer of the model has a pattern.
        """
        if not isinstance(model, nn.Module):
            rule = f"model must be a torch.nn.Module, not {type(model).__name__}"
            raise ArgumentError("sf.finetune.masked(model)", rule, "pass the pruned model")
        require_uncompiled(model, "sf.finetune.masked(model)")
        found = pruned_layers(model)
        if not found:
            raise ArgumentError(
                "sf.finetune.masked(model)",
                f"none of the linear layers of this {type(model).__name__} is 2:4, 4:6 or 6:8",
                "prune it first: sf.prune(model, …)",
            )
        return cls(found)

    @classmethod
    def of_zeros(cls, model: nn.Module, dense: nn.Module, *, required: bool = True) -> Masks:
        """Make masks of every zero of the parameters that pruning changed, in whatever pattern.

        Those are the parameters of two or more dimensions with a zero where the dense model has none; one
        that several modules share is masked once. `layers` then holds the parameters' names.

        Raises:
            ArgumentError: the models' parameters differ in names or shapes, or no zero was made, though one
                is required.
        """
        masks = cls({})
        theirs = dict(dense.named_parameters())
        mine = dict(model.named_parameters())
        if {name: p.shape for name, p in mine.items()} != {name: p.shape for name, p in theirs.items()}:
            raise ArgumentError(
                "sf.recover(dense)",
                f"its parameters aren't those of the pruned {type(model).__name__}",
                "pass the model as it was before sf.prune: copy.deepcopy(model)",
            )
        for name, parameter in mine.items():
            zero = parameter.detach() == 0
            if parameter.dim() > 1 and bool((zero & (theirs[name].detach().to(zero.device) != 0)).any()):
                masks._dropped[parameter] = zero
        masks.layers = tuple(name for name, parameter in mine.items() if parameter in masks._dropped)
        if required and not masks.layers:
            raise ArgumentError(
                "sf.recover(model)",
                f"no weight of this {type(model).__name__} has a zero that the dense model lacks",
                "prune it first: sf.prune(model, …), or pass activations=…",
            )
        return masks

    @property
    def zeros(self) -> int:
        """How many weights stay zero."""
        return sum(int(mask.sum()) for mask in self._dropped.values())

    @torch.no_grad()
    def apply(self) -> None:
        """Set the dropped positions of all weights and their gradients to zero."""
        for parameter in self._dropped:
            self._clear(parameter, parameter)
            if parameter.grad is not None:
                self._clear(parameter, parameter.grad)

    @contextmanager
    def held(self, *, updates_vanish: bool = False) -> Iterator[Masks]:
        """Within the block, mask gradients, and weights and moments after each step of any optimiser.

        Args:
            updates_vanish: the only optimiser is new, and what has had no gradient it leaves as it is: then
                gradients alone need masks.
        """
        self.apply()
        with ExitStack() as hooks:
            for parameter in self._dropped:
                if parameter.requires_grad:
                    # In place, when the gradient is added up: a hook before that would have to copy it.
                    register: Callable[[_Hook], RemovableHandle] = (
                        parameter.register_post_accumulate_grad_hook  # untyped in torch
                    )
                    hooks.callback(register(self._clear_gradient).remove)
            if not updates_vanish:
                hooks.callback(register_optimizer_step_post_hook(self._after_step).remove)
            yield self
        self.apply()

    @torch.no_grad()
    def _clear_gradient(self, parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            self._clear(parameter, parameter.grad)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in self._dropped:
                    self._clear(parameter, parameter)
                    for value in optimizer.state.get(parameter, {}).values():
                        # Moments from before the masks, or of an optimiser that adds to them by itself.
                        # Those of 8-bit optimisers are codes, of which 0 isn't the value 0.
                        floats = isinstance(value, Tensor) and value.is_floating_point()
                        if floats and value.shape == parameter.shape:
                            self._clear(parameter, value)

    def _clear(self, parameter: nn.Parameter, values: Tensor) -> None:
        values.masked_fill_(self._dropped_on(parameter, values.device), 0)

    def _dropped_on(self, parameter: nn.Parameter, device: torch.device) -> Tensor:
        mask = self._dropped[parameter]
        if mask.device != device:
            mask = self._dropped[parameter] = mask.to(device)
        return mask


@contextmanager
def masked(model: nn.Module) -> Iterator[Masks]:
    """Keep pruned weights in their pattern within the block, for any loop and `torch.optim` optimiser.

    That is the sparsest of 2:4, 4:6 and 6:8 that a weight has. The masks are fixed. Gradients at dropped
    positions are zero; after each optimiser step weights and moments there are set to exact zeros, so that
    weight decay, momentum and earlier moments change nothing.

        with sf.finetune.masked(model):
            for batch in batches:
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    Args:
        model: pruned; parameters must stay the same objects within the block, on whatever device.

    Raises:
        ArgumentError: no layer of the model has a pattern.
    """
    with Masks.of(model).held() as masks:
        yield masks


def pruned_layers(model: nn.Module) -> dict[str, Layer]:
    """Return by name the linear layers whose weights have a pattern and are not all zero."""
    return {layer.name: layer for layer in find_layers(model, ()) if _is_masked(layer)}


def _is_masked(layer: Layer) -> bool:
    usable = layer.dense is None and not layer.weight.is_meta
    return usable and pattern_of(layer.weight) is not None and bool(layer.weight.any())


def _parameter(layer: Layer) -> nn.Parameter:
    parameter = layer.module.weight
    assert isinstance(parameter, nn.Parameter), "find_layers says why another one is dense"
    return parameter


def dropped(layer: Layer) -> Tensor:
    """Return a bool tensor of the parameter's shape, true where the weight stays zero."""
    pattern = pattern_of(layer.weight)
    assert pattern is not None, "only layers of `pruned_layers` are masked"
    places = ~pattern.mask(layer.weight)
    return (places.t() if layer.transposed else places).contiguous()
