"""Statistics of linear layers' inputs, gathered while the model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseflow.errors import CalibrationError
from sparseflow.pruning.calibration import layer_by_layer
from sparseflow.pruning.linear_layers import Layer

SAMPLE_ROWS = 2048
"""Rows of a layer's inputs kept to measure the error of its outputs."""


class Statistics:
    """Statistics of one layer's inputs X ``[rows, K]``, in float32, or float64 for a float64 weight.

    Args:
        layer: the layer.
        gram: whether to gather ``XᵀX`` too, which takes K² values.
        calls: the number of batches; limits how many rows each adds to the sample.
        cross: whether to gather ``DᵀX`` too, D being the dense model's inputs for the same rows.
    """

    def __init__(self, layer: Layer, *, gram: bool, calls: int, cross: bool = False) -> None:
        weight = layer.weight
        self.layer = layer
        self.rows = 0
        self._dtype = torch.promote_types(weight.dtype, torch.float32)
        self._share = -(-SAMPLE_ROWS // calls)
        self._sample: list[Tensor] = []
        features = weight.shape[1]
        self._squares = torch.zeros(features, dtype=self._dtype, device=weight.device)
        square = partial(torch.zeros, features, features, dtype=self._dtype, device=weight.device)
        self._gram = square() if gram else None
        self._cross = square() if cross else None

    def add(self, x: Tensor, dense: Tensor | None = None) -> None:
        """Add the inputs ``[…, K]`` of one call, and the dense model's if `cross`.

        If the dense model's are missing or of another shape, for example with different expert routing, the
        cross term is dropped.
        """
        if self._cross is not None:
            if dense is not None and dense.shape == x.shape:
                flat = (t.detach().reshape(-1, t.shape[-1]).to(self._dtype) for t in (dense, x))
                self._cross.addmm_(next(flat).t(), next(flat))
            else:
                self._cross = None
        x = x.detach().reshape(-1, x.shape[-1])
        if not x.shape[0]:
            return
        self._sample.append(x[:: -(-x.shape[0] // self._share)].clone())
        x = x.to(self._dtype)
        self.rows += x.shape[0]
        self._squares += x.square().sum(0)
        if self._gram is not None:
            self._gram.addmm_(x.t(), x)

    def require_finite(self) -> None:
        """Refuse NaN and Inf among the inputs.

        Raises:
            CalibrationError: there are some; the error names the layer.
        """
        if not self._squares.isfinite().all():
            raise nonfinite_inputs(self.layer.name)

    def norms(self) -> Tensor:
        """Return ``‖X_j‖₂`` of each input feature, ``[K]``."""
        return self._squares.sqrt()

    def take_gram(self) -> Tensor:
        """Return ``XᵀX / rows``, ``[K, K]``, and release it: callable once."""
        gram, self._gram = self._gram, None
        assert gram is not None, "gathered, and not taken yet"
        return gram.div_(self.rows)

    def take_cross(self) -> Tensor | None:
        """Return ``DᵀX / rows``, ``[K, K]``, and release it; None if not gathered or dropped."""
        cross, self._cross = self._cross, None
        return None if cross is None else cross.div_(self.rows)

    def output_error(self, weight: Tensor, pruned: Tensor) -> float:
        """Return ``‖XWᵀ − XW'ᵀ‖ / ‖XWᵀ‖`` over the sampled rows; 0 if XWᵀ is zero."""
        x, weight, pruned = (t.to(self._dtype) for t in (torch.cat(self._sample), weight, pruned))
        norm = torch.linalg.vector_norm(x @ weight.t())
        return float(torch.linalg.vector_norm(x @ (weight - pruned).t()) / norm) if norm else 0.0


Gathering = dict[str, Statistics]
"""Statistics by the names of their layers."""


class Enough(BaseException):
    """Stops a run when all was seen; a BaseException, so that models don't catch it."""


class Watch:
    """Sees the inputs of layers in run after run, and ends a run when all have been seen.

    What comes after the layers takes most of a block's time: of the four groups of a decoder's layers, two
    stand before its MLP. The first run goes to its end: if it calls each layer once, so will the others.
    Where it calls one never or several times, which a router or a loop may do, all go to their ends.

    Args:
        layers: to watch.
        see: called with a layer and its input, as `watching` does.
    """

    def __init__(self, layers: Sequence[Layer], see: Callable[[Layer, Tensor], None]) -> None:
        self._layers, self._see = layers, see
        self._stops: bool | None = None

    def run(self, call: Callable[[], object]) -> None:
        """Call what runs the layers."""
        seen: Counter[str] = Counter()

        def see(layer: Layer, x: Tensor) -> None:
            self._see(layer, x)
            seen[layer.name] += 1
            if self._stops and len(seen) == len(self._layers):
                raise Enough

        with watching(self._layers, see), suppress(Enough):
            call()
        if self._stops is None:
            self._stops = len(seen) == len(self._layers) and max(seen.values(), default=0) == 1


def gather(layers: Sequence[Layer], run: Callable[[int], object], calls: int, *, gram: bool) -> Gathering:
    """Gather statistics of the inputs of `layers` while `run` runs each of `calls` batches by its index."""
    statistics = {layer.name: Statistics(layer, gram=gram, calls=calls) for layer in layers}
    watch = Watch(layers, lambda layer, x: statistics[layer.name].add(x))
    for batch in range(calls):
        watch.run(partial(run, batch))
    return statistics


def nonfinite_inputs(name: str) -> CalibrationError:
    """Return the error for NaN or Inf in a layer's inputs."""
    return CalibrationError(
        f"layer {name}",
        "its inputs hold NaN or Inf during calibration",
        "find the batch or the weight that makes them; float16 models may overflow where bfloat16 ones don't",
    )


@contextmanager
def watching(layers: Sequence[Layer], see: Callable[[Layer, Tensor], None]) -> Iterator[None]:
    """Call ``see(layer, x)`` with the inputs of each layer before it runs.

    A layer that isn't called is seen where another module multiplies by its weight with `F.linear`, as
    `nn.MultiheadAttention` does with that of its `out_proj`.
    """
    running: list[nn.Module] = []
    with ExitStack() as stack:
        stack.enter_context(layer_by_layer())
        for layer in layers:

            def before(
                module: nn.Module,
                args: tuple[Tensor, ...],
                kwargs: Mapping[str, Tensor],
                layer: Layer = layer,
            ) -> None:
                running.append(module)
                see(layer, args[0] if args else next(iter(kwargs.values())))

            def after(module: nn.Module, args: tuple[object, ...], output: object) -> None:
                running.remove(module)

            stack.callback(layer.module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(layer.module.register_forward_hook(after, always_call=True).remove)
        stack.enter_context(_watching_weights(layers, running, see))
        yield


@contextmanager
def _watching_weights(
    layers: Sequence[Layer], running: Sequence[nn.Module], see: Callable[[Layer, Tensor], None]
) -> Iterator[None]:
    """Call ``see`` for products by the weights of those layers that aren't `running` themselves."""
    linear = F.linear

    def watched(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
        for layer in layers:
            # By identity, looked up in each call: a layer that was moved may have another parameter.
            if layer.module._parameters.get("weight") is weight and layer.module not in running:
                see(layer, input)
        return linear(input, weight, bias)

    F.linear = watched
    try:
        yield
    finally:
        F.linear = linear
