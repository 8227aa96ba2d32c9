"""The MLPs of a PyTorch model, found by the pass that will make them contextual."""

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
from sparseflow.integrations.transformers.caches import without_cache
from sparseflow.passes import run_pipeline
from sparseflow.passes.canonicalize_linear import CanonicalizeLinear
from sparseflow.passes.mlps import Mlp, bias_of, find_mlps
from sparseflow.pruning.layers import Layer
from sparseflow.runtime.contextual.portable import ACTIVATIONS


@dataclass(frozen=True, eq=False)
class ModelMlp:
    """An MLP of a model, with its weights as they are, none copied.

    Attributes:
        name: of its up layer.
        module: its up layer, whose input the MLP reads.
        activation: of the neurons.
        up: ``[I, H]``.
        gate: ``[I, H]``, or None for a plain MLP.
        down: ``[H, I]``.
        up_bias: ``[I]`` or None.
        gate_bias: ``[I]`` or None.
        down_layer: its down layer, for those that look at its inputs.
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
        """Its up layer, for those that look at its inputs."""
        return Layer(self.name, self.module, transposed=False)

    @property
    def sizes(self) -> tuple[int, int]:
        """(I, H)."""
        neurons, hidden = self.up.shape
        return neurons, hidden

    def gates(self, x: Tensor) -> Tensor:
        """What the activation gives for x ``[rows, H]``: ``[rows, I]`` float32."""
        weight, bias = (self.up, self.up_bias) if self.gate is None else (self.gate, self.gate_bias)
        active: Tensor = ACTIVATIONS[self.activation](_linear(x, weight, bias))
        return active

    def hidden(self, x: Tensor) -> Tensor:
        """The neurons' values for x ``[rows, H]``: what down multiplies, ``[rows, I]`` float32."""
        active = self.gates(x)
        return active if self.gate is None else active * _linear(x, self.up, self.up_bias)

    def contributions(self, hidden: Tensor) -> Tensor:
        """How long the vector is that each neuron adds to the output: ``|hidden| · ‖column of down‖``."""
        lengths: Tensor = torch.linalg.vector_norm(self.down, dim=0, dtype=torch.float32)
        return hidden.abs() * lengths


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wide: Tensor = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return wide


@torch.no_grad()
def find_model_mlps(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> list[ModelMlp]:
    """Every MLP that can become contextual, in the order in which a call runs them.

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
    run_pipeline(imported.module, [CanonicalizeLinear()])
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
    """Some of their names, for messages."""
    names = [mlp.name for mlp in mlps]
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
