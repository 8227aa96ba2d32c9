"""The linear layers of a model by the inputs that they share, and what hooks see and change of those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.linear_layers import Layer, find_layers


@dataclass(frozen=True)
class SharedInput:
    """Layers that read the same input, such as q, k and v: one mask serves all.

    Attributes:
        layers: in the order of their calls.
    """

    layers: tuple[Layer, ...]

    @property
    def name(self) -> str:
        """That of its first layer."""
        return self.layers[0].name

    @property
    def features(self) -> int:
        """K."""
        return self.layers[0].shape[1]

    @property
    def weights(self) -> int:
        """Values of all weights."""
        return sum(n * k for n, k in (layer.shape for layer in self.layers))


Change = Callable[[SharedInput, Layer, Tensor], Tensor | None]
"""Sees the input ``[…, K]`` of a layer; returns what the layer reads instead, or None."""


@contextmanager
def changing(inputs: Sequence[SharedInput], change: Change) -> Iterator[None]:
    """Call `change` before each layer runs."""
    with ExitStack() as stack:
        for shared in inputs:
            for layer in shared.layers:

                def hook(
                    module: nn.Module,
                    args: tuple[Tensor, ...],
                    shared: SharedInput = shared,
                    layer: Layer = layer,
                ) -> tuple[Tensor, ...] | None:
                    changed = change(shared, layer, args[0])
                    return None if changed is None else (changed, *args[1:])

                stack.callback(layer.module.register_forward_pre_hook(hook).remove)
        yield


def shared_inputs(model: nn.Module, skip: Sequence[str], run: Callable[[], object]) -> list[SharedInput]:
    """Return the layers that a call reaches, grouped by the tensor that they read.

    Args:
        model: the model.
        skip: fnmatch patterns over layer names that stay dense.
        run: calls it.

    Raises:
        ArgumentError: it reaches none that isn't skipped.
    """
    read: dict[str, Tensor] = {}
    layers = {layer.name: layer for layer in find_layers(model, skip) if layer.dense is None}

    def see(shared: SharedInput, layer: Layer, x: Tensor) -> None:
        read.setdefault(layer.name, x)

    with torch.no_grad(), changing([SharedInput((layer,)) for layer in layers.values()], see):
        run()
    groups: dict[int, list[Layer]] = {}
    for name, x in read.items():  # held until here, so that no id is used twice
        groups.setdefault(id(x), []).append(layers[name])
    if not groups:
        raise ArgumentError(
            "sf.calibrate_activations(model)", "reaches no linear layer that isn't skipped", "leave skip out"
        )
    return [SharedInput(tuple(group)) for group in groups.values()]
