"""The pass ``fuse-epilogue``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch_mlir import ir

from sparseflow.dialect.linear import ACTIVATIONS, GATES
from sparseflow.dialect.matchers import only_reader, operations
from sparseflow.dialect.sparse_layers import LAYERS, epilogue_of, layer_like, layer_view
from sparseflow.dialect.types import tensor_type
from sparseflow.passes.activations import activation_of
from sparseflow.passes.base import Pass, option
from sparseflow.passes.ir_builder import replace
from sparseflow.passes.products import is_one
from sparseflow.passes.sizes import KnownSizes
from sparseflow.passes.views import VIEWS, returns_its_input

PARTS = ("bias", *ACTIVATIONS, "residual")
"""The operations that can be fused into a layer."""

_ADD = "torch.aten.add.Tensor"


def _parts(text: str) -> tuple[str, ...]:
    found = tuple(part for part in text.split(",") if part)
    if unknown := sorted(set(found) - set(PARTS)):
        raise ValueError(f"can be any of {', '.join(PARTS)}, not {unknown[0]}")
    return found


@dataclass(frozen=True)
class FuseEpilogue(Pass):
    """Fuse the bias, activation and residual that follow a sparse layer into it.

    Requires: layers that are to be merged are merged (`merge-projections`).

    Ensures: a `sparse_gemm.linear` or `column_linear` whose result has one reader takes over, in this order
    and each only where the layer has neither it nor a later one yet: the addition of a tensor of shape [N] as
    `bias`; `relu`, `gelu` or `silu` as `epilogue`; the addition of a tensor of its own type and shape as
    `residual`. Inactive dropout and views that keep the shape are skipped. The layer then stands in the place
    of the last of them, and rounds once instead of after each.

    Left alone: additions with another factor than 1; those that broadcast, or whose dynamic sizes aren't
    proven equal; operations that change the type or are in another block; parts of a merged layer; what
    follows a gate.
    """

    name: ClassVar[str] = "fuse-epilogue"
    parts: tuple[str, ...] = option(PARTS, "fuse only these", _parts)

    def run(self, module: ir.Module) -> None:
        """Decide for all layers first: known sizes are valid for the unmodified module only."""
        sizes, taken = KnownSizes(module), set[ir.Operation]()
        # Where a sum has two layers, the later one takes the earlier as its residual and need not move.
        layers = reversed(operations(module, LAYERS))
        for chain in [_follow(op, self.parts, sizes, taken) for op in layers]:
            _fuse(chain)


@dataclass
class _Chain:
    """A layer and the operations fused into it.

    Attributes:
        layer: the sparse layer.
        links: its successive readers up to the last fused one, including no-ops in between.
        bias: addition that becomes its bias, with the index of the operand that is added.
        epilogue: its activation afterwards.
        residual: addition that becomes its residual, like `bias`.
    """

    layer: ir.Operation
    links: list[ir.Operation] = field(default_factory=list)
    bias: tuple[ir.Operation, int] | None = None
    epilogue: str = "none"
    residual: tuple[ir.Operation, int] | None = None


def _follow(
    layer: ir.Operation, parts: tuple[str, ...], sizes: KnownSizes, taken: set[ir.Operation]
) -> _Chain:
    chain = _Chain(layer, epilogue=epilogue_of(layer))
    passed: list[ir.Operation] = []
    value = layer.results[0]
    while layer_view(layer).residual is None and chain.epilogue not in GATES and chain.residual is None:
        reader = only_reader(value)
        if reader is None or reader in taken:
            break
        passed.append(reader)
        if not returns_its_input(reader, sizes):
            if not _take(chain, reader, value, parts, sizes):
                break
            chain.links += passed
            taken.update(passed)
            passed = []
        value = reader.results[0]
    return chain


def _take(
    chain: _Chain, reader: ir.Operation, value: ir.Value, parts: tuple[str, ...], sizes: KnownSizes
) -> bool:
    """Make the reader of a value part of the chain if it can be."""
    activation = activation_of(reader)
    if activation is not None:
        if chain.epilogue != "none" or activation not in parts:
            return False
        chain.epilogue = activation
        return True
    added = _added(reader, value)
    if added is None:
        return False
    other = reader.operands[added]
    has_bias = layer_view(chain.layer).bias is not None or chain.bias is not None
    if "bias" in parts and not has_bias and chain.epilogue == "none" and _is_bias(other, value):
        chain.bias = reader, added
        return True
    if "residual" in parts and other.type == value.type and sizes.equal(other, value):
        chain.residual = reader, added
        return True
    return False


def _added(op: ir.Operation, value: ir.Value) -> int | None:
    """Return the operand that an addition adds to a value, or None for any other or scaled use."""
    if op.name != _ADD or not is_one(op.operands[2]):
        return None
    return 1 if op.operands[0] == value else 0


def _is_bias(other: ir.Value, value: ir.Value) -> bool:
    bias, type_ = tensor_type(other), tensor_type(value)
    if bias is None or type_ is None or not type_.shape or type_.shape[-1] is None:
        return False
    return bias.shape == type_.shape[-1:] and bias.dtype == type_.dtype


def _fuse(chain: _Chain) -> None:
    if not chain.links:
        return
    layer, last, view = chain.layer, chain.links[-1], layer_view(chain.layer)
    bias, residual = (
        known if taken is None else taken[0].operands[taken[1]]
        for known, taken in ((view.bias, chain.bias), (view.residual, chain.residual))
    )
    # Only before the last link everything that any link reads is known.
    with layer.location, ir.InsertionPoint(last):
        type_, epilogue = last.results[0].type, chain.epilogue
        fused = layer_like(layer, view.x, view.weight, bias, residual, result=type_, epilogue=epilogue)
    for link in chain.links[:-1]:
        if link.name in (*VIEWS, "torch.aten.dropout"):
            link.results[0].replace_all_uses_with(link.operands[0])
            link.erase()
    replace(last, fused.results[0])
