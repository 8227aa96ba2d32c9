"""The products of contextual MLPs that are 2:4: what runs them for more rows than select neurons."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import ProgramWeights
from sparseflow.compiler.measured import Shape, shape_policies
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.matchers import weights_of
from sparseflow.dialect.types import tensor_type
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
        policy: what runs it for which M, its weight being 2:4; None where it is dense.
        reason: why it is dense; empty where nobody asked.
    """

    policy: Policy | None = None
    reason: str = ""

    @property
    def text(self) -> str | None:
        """The policy as `form-contextual-mlp` takes it."""
        return None if self.policy is None else str(self.policy)

    def above(self, m_max: int) -> Product:
        """The product for more rows than m_max: dense where 2:4 was measured to be no faster there."""
        if self.policy is None or not self.policy.measured or self.policy.pays_above(m_max):
            return self
        return Product(None, f"2:4 is {self.policy.why(m_max)}")


@dataclass(frozen=True)
class Products:
    """Both products of an MLP.

    Attributes:
        up: of gate and up, or of up alone.
        down: of down.
        shares: of the weights' bytes, those of `up` and of `down`.
    """

    up: Product = Product()
    down: Product = Product()
    shares: tuple[float, float] = (0.5, 0.5)

    @property
    def is_measured(self) -> bool:
        """Whether the speed of one of them as 2:4 is known."""
        return any(product.policy is not None and product.policy.measured for product in (self.up, self.down))

    def speedup(self, m: int) -> float:
        """Over the dense MLP for m rows; a dense product's time is taken to be its share of the bytes."""
        products = zip((self.up, self.down), self.shares, strict=True)
        return 1 / sum(share / (p.policy.speedup(m) if p.policy else 1.0) for p, share in products)

    def above(self, m_max: int) -> Products:
        """Each as `Product.above` has it."""
        return dataclasses.replace(self, up=self.up.above(m_max), down=self.down.above(m_max))


def measured_products(
    mlps: Sequence[Mlp], uses: WeightUses, weights: ProgramWeights, options: CompileOptions, step: Step
) -> dict[str, Products]:
    """What was measured of each MLP's products, by its name, and why others can't be 2:4.

    The kernels of contextual MLPs read dense weights in any case: nothing is ever decompressed.

    Args:
        mlps: those that will be contextual, their layers as `canonicalize-linear` makes them.
        uses: of the module's weights.
        weights: those of the program.
        options: of the compilation.
        step: told while measuring.
    """
    layers = [layer for mlp in mlps for layer in mlp.layers]
    found = MatchSparseLinear(skip=options.skipped).reasons(layers, uses)
    reasons = {layer: reason for layer, reason in zip(layers, found, strict=True) if reason is not None}
    reasons = _shared(mlps) | reasons
    weights.bank.choose(weights_of(layer for layer in layers if layer not in reasons))
    parts = {
        (mlp.name, part): _Part.of(mlp, part, reasons, weights) for mlp in mlps for part in ("up", "down")
    }
    found_for = _measured([part for part in parts.values() if not part.reason], options, step)

    def product(part: _Part) -> Product:
        policy = part.reason or found_for(part)
        return Product(None, policy) if isinstance(policy, str) else Product(policy)

    made = {}
    for mlp in mlps:
        up, down = parts[mlp.name, "up"], parts[mlp.name, "down"]
        total = up.elements + down.elements
        made[mlp.name] = Products(product(up), product(down), (up.elements / total, down.elements / total))
    return made


def _shared(mlps: Sequence[Mlp]) -> dict[ir.Operation, str]:
    """Layers whose weight another MLP has too: what is right for one need not be for the other."""
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
    """A product that may become 2:4: (N, K) of its weight, its dtype and place, and why it can't."""

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
        assert type_ is not None, "find_mlps saw to it"
        assert type_.dtype is not None, "find_mlps saw to it"
        why = [
            f"of {mlp.ref(layer).layers[0]}, {reasons[layer]}" if len(layers) > 1 else reasons[layer]
            for layer in layers
            if layer in reasons
        ]
        if len(set(names)) < len(names):
            why.append("gate and up have one weight")
        device = weights.device(names[0])
        return cls(shape, TORCH_DTYPES[type_.dtype], device, why[0] if why else "")


def _measured(parts: Sequence[_Part], options: CompileOptions, step: Step) -> Callable[[_Part], Policy | str]:
    """What finds the policy of each of some products, or why it is dense."""
    shapes: dict[tuple[torch.dtype, torch.device], list[Shape]] = defaultdict(list)
    for part in parts:
        group = shapes[part.dtype, part.device]
        group += [] if part.shape in group else [part.shape]
    kept = dataclasses.replace(options, memory="fast")
    measured = {where: shape_policies(group, *where, kept, step) for where, group in shapes.items()}
    return lambda part: measured[part.dtype, part.device].get(part.shape, Policy())
