"""Decide whether the products of contextual MLPs are dense or 2:4 above the rows that select neurons."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import ProgramWeights
from sparseflow.compiler.measured_policies import Shape, shape_policies
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.base import text_of
from sparseflow.dialect.matchers import weights_of
from sparseflow.dialect.types import tensor_type
from sparseflow.dialect.weight import PATTERN
from sparseflow.passes.match_sparse_linear import MatchSparseLinear
from sparseflow.passes.mlps import Mlp
from sparseflow.passes.weight_uses import WeightUses
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats.tensors import TORCH_DTYPES
from sparseflow.support.progress import Step


@dataclass(frozen=True)
class Product:
    """One product of a contextual MLP: gate and up together, or down.

    Attributes:
        policy: the kernel for each M, with a 2:4 weight; None if it is dense.
        reason: why it is dense; empty if 2:4 wasn't requested.
    """

    policy: Policy | None = None
    reason: str = ""

    @property
    def text(self) -> str | None:
        """The policy as `form-contextual-mlp` takes it."""
        return None if self.policy is None else str(self.policy)

    def above(self, m_max: int) -> Product:
        """Return the product above m_max rows: dense if 2:4 was measured to be no faster there."""
        if self.policy is None or not self.policy.measured or self.policy.pays_above(m_max):
            return self
        return Product(None, f"2:4 is {self.policy.why(m_max)}")


@dataclass(frozen=True)
class Products:
    """Both products of an MLP.

    Attributes:
        up: the product of gate and up, or of up alone.
        down: the product of down.
        shares: the shares of `up` and `down` in the weights' bytes.
    """

    up: Product = Product()
    down: Product = Product()
    shares: tuple[float, float] = (0.5, 0.5)

    @property
    def is_measured(self) -> bool:
        """Whether the speed of at least one 2:4 product was measured."""
        return any(product.policy is not None and product.policy.measured for product in (self.up, self.down))

    def speedup(self, m: int) -> float:
        """Return the speed-up over the dense MLP for m rows; dense products take their share of the bytes."""
        products = zip((self.up, self.down), self.shares, strict=True)
        return 1 / sum(share / (p.policy.speedup(m) if p.policy else 1.0) for p, share in products)

    def above(self, m_max: int) -> Products:
        """Return both products above m_max rows."""
        return dataclasses.replace(self, up=self.up.above(m_max), down=self.down.above(m_max))


def measured_products(
    mlps: Sequence[Mlp], uses: WeightUses, weights: ProgramWeights, options: CompileOptions, step: Step
) -> dict[str, Products]:
    """Measure the products of MLPs, and return them by MLP name with the reasons why some can't be 2:4.

    The dense weights are kept in any case, because the kernels of contextual MLPs read them.

    Args:
        mlps: the MLPs that will be contextual, their layers in the form of `canonicalize-linear`.
        uses: of the module's weights.
        weights: those of the program.
        options: of the compilation.
        step: called while measuring, to advance the progress bar.
    """
    layers = [layer for mlp in mlps for layer in mlp.layers]
    found = MatchSparseLinear(skip=options.skipped).reasons(layers, uses)
    reasons = {layer: reason for layer, reason in zip(layers, found, strict=True) if reason is not None}
    reasons = _shared_reasons(mlps) | _pattern_reasons(mlps) | reasons
    weights.bank.choose(weights_of(layer for layer in layers if layer not in reasons))
    parts = {
        (mlp.name, part): _Part.of(mlp, part, reasons, weights) for mlp in mlps for part in ("up", "down")
    }
    policy_of = _measure([part for part in parts.values() if not part.reason], options, step)

    def product(part: _Part) -> Product:
        policy = part.reason or policy_of(part)
        return Product(None, policy) if isinstance(policy, str) else Product(policy)

    made = {}
    for mlp in mlps:
        up, down = parts[mlp.name, "up"], parts[mlp.name, "down"]
        total = up.elements + down.elements
        made[mlp.name] = Products(product(up), product(down), (up.elements / total, down.elements / total))
    return made


def _pattern_reasons(mlps: Sequence[Mlp]) -> dict[ir.Operation, str]:
    """Return the layers whose weight is 4:6 or 6:8: the products of MLPs that select neurons read 2:4."""
    ops = {layer: mlp.ref(layer).op for mlp in mlps for layer in mlp.layers}
    return {
        layer: f"its weight is {text_of(op, PATTERN)}, and an MLP that selects neurons reads 2:4"
        for layer, op in ops.items()
        if PATTERN in op.attributes
    }


def _shared_reasons(mlps: Sequence[Mlp]) -> dict[ir.Operation, str]:
    """Return the layers whose weight another MLP shares, since the MLPs may need different policies."""
    readers: dict[str, list[tuple[Mlp, ir.Operation]]] = defaultdict(list)
    for mlp in mlps:
        for layer in mlp.layers:
            readers[mlp.ref(layer).names[0]].append((mlp, layer))
    found: dict[ir.Operation, str] = {}
    for weight, pairs in readers.items():
        owners = sorted({mlp.name for mlp, _ in pairs})
        if len(owners) > 1:
            reason = f"its weight '{weight}' is shared by the MLPs of {', '.join(owners)}"
            found |= {layer: reason for _, layer in pairs}
    return found


@dataclass(frozen=True)
class _Part:
    """A product that may become 2:4: shape, dtype and device of its weight, and why it can't, if so."""

    shape: Shape
    dtype: torch.dtype
    device: torch.device
    reason: str

    @property
    def elements(self) -> int:
        return self.shape[0] * self.shape[1]

    @classmethod
    def of(cls, mlp: Mlp, part: str, reasons: dict[ir.Operation, str], weights: ProgramWeights) -> _Part:
        neurons, hidden = mlp.sizes
        layers = [mlp.down] if part == "down" else mlp.layers[:-1]
        shape = (hidden, neurons) if part == "down" else (len(layers) * neurons, hidden)
        names = [mlp.ref(layer).names[0] for layer in layers]
        type_ = tensor_type(layers[0].operands[1])
        assert type_ is not None, "find_mlps checked it"
        assert type_.dtype is not None, "find_mlps checked it"
        why = [
            f"{mlp.ref(layer).layers[0]}: {reasons[layer]}" if len(layers) > 1 else reasons[layer]
            for layer in layers
            if layer in reasons
        ]
        if len(set(names)) < len(names):
            why.append("gate and up share one weight")
        device = weights.device(names[0])
        return cls(shape, TORCH_DTYPES[type_.dtype], device, why[0] if why else "")


def _measure(parts: Sequence[_Part], options: CompileOptions, step: Step) -> Callable[[_Part], Policy | str]:
    """Measure products; return a function from each to its policy, or to the reason why it is dense."""
    shapes: dict[tuple[torch.dtype, torch.device], list[Shape]] = defaultdict(list)
    for part in parts:
        group = shapes[part.dtype, part.device]
        group += [] if part.shape in group else [part.shape]
    kept = dataclasses.replace(options, memory="fast")
    measured = {where: shape_policies(group, *where, kept, step) for where, group in shapes.items()}
    return lambda part: measured[part.dtype, part.device].get(part.shape, Policy())
