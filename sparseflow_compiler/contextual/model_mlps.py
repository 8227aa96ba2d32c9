"""Find the MLPs of a PyTorch model with the matcher of the pass that makes them contextual."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.dialect.matchers import weight_ref
from sparseflow.frontend import capture, import_program
from sparseflow.integrations.transformers.static_caches import without_cache
from sparseflow.passes import run_pipeline
from sparseflow.passes.mlps import Mlp, bias_of, find_mlps
from sparseflow.passes.phases import pipeline
from sparseflow.pruning.linear_layers import Layer
from sparseflow.runtime.contextual.portable import ACTIVATIONS


@dataclass(frozen=True, eq=False)
class ModelMlp:
    """An MLP of a model with its original weights, not copied.

    Attributes:
        name: of its up layer.
        module: its up layer, whose input the MLP reads.
        activation: of the neurons.
        up: ``[I, H]``.
        gate: ``[I, H]``, or None for a plain MLP.
        down: ``[H, I]``.
        up_bias: ``[I]`` or None.
        gate_bias: ``[I]`` or None.
        down_layer: its down layer, for observing its inputs.
    """

    name: str
    module: nn.Module
    activation: str
    up: Tensor
    gate: Tensor | None
    down: Tensor
    up_bias: Tensor | None
    gate_bias: Tensor | None
    down_layer: Layer

    @property
    def layer(self) -> Layer:
        """Its up layer, for observing its inputs."""
        return Layer(self.name, self.module, transposed=False)

    @property
    def sizes(self) -> tuple[int, int]:
        """(I, H)."""
        neurons, hidden = self.up.shape
        return neurons, hidden

    def gates(self, x: Tensor) -> Tensor:
        """Compute the activation's output for x ``[rows, H]``: ``[rows, I]`` float32."""
        weight, bias = (self.up, self.up_bias) if self.gate is None else (self.gate, self.gate_bias)
        active: Tensor = ACTIVATIONS[self.activation](_linear(x, weight, bias))
        return active

    def hidden(self, x: Tensor) -> Tensor:
        """Compute the neurons' values for x ``[rows, H]``, the input of down: ``[rows, I]`` float32."""
        active = self.gates(x)
        return active if self.gate is None else active * _linear(x, self.up, self.up_bias)

    def contributions(self, hidden: Tensor) -> Tensor:
        """Return the norm of each neuron's contribution to the output: ``|hidden| · ‖column of down‖``."""
        lengths: Tensor = torch.linalg.vector_norm(self.down, dim=0, dtype=torch.float32)
        return hidden.abs() * lengths


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wide: Tensor = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return wide


@torch.no_grad()
def find_model_mlps(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> list[ModelMlp]:
    """Return every MLP that can become contextual, in execution order.

    Args:
        model: in evaluation mode.
        args: positional inputs of a call that reaches them.
        kwargs: keyword inputs.

    Raises:
        CaptureError: torch.export can't capture the call.
    """
    with without_cache(model):
        captured = capture(model, args, kwargs)
    context = ir.Context()
    dialect.load(context)
    imported = import_program(captured, context)
    run_pipeline(imported.module, pipeline("canonical"))
    found = {mlp.name: mlp for mlp in find_mlps(imported.module) if not mlp.reason}
    return [_of(model, mlp, imported.weights) for mlp in found.values()]


def _of(model: nn.Module, mlp: Mlp, tensors: Mapping[str, Tensor]) -> ModelMlp:
    def weight(layer: ir.Operation) -> Tensor:
        ref = mlp.ref(layer)
        tensor = tensors[ref.names[0]].detach()
        return tensor.t() if ref.transposed[0] else tensor

    def bias(layer: ir.Operation | None) -> Tensor | None:
        value = None if layer is None else bias_of(layer)
        ref = None if value is None else weight_ref(value)
        return None if ref is None else tensors[ref.names[0]].detach()

    down = mlp.ref(mlp.down).layers[0]
    return ModelMlp(
        mlp.name,
        model.get_submodule(mlp.name),
        mlp.activation,
        weight(mlp.up),
        None if mlp.gate is None else weight(mlp.gate),
        weight(mlp.down),
        bias(mlp.up),
        bias(mlp.gate),
        Layer(down, model.get_submodule(down), transposed=False),
    )


def named(mlps: Iterable[ModelMlp]) -> str:
    """Name some of them, for messages."""
    names = [mlp.name for mlp in mlps]
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
