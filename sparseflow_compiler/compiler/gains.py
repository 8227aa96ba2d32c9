"""What pruning a model would gain on this machine, by the tables that it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from sparseflow.compiler.decisions import ranges_of
from sparseflow.compiler.if_pruned import Product
from sparseflow.compiler.options import CompileOptions
from sparseflow.reports.grouping import expected
from sparseflow.reports.report import Range
from sparseflow.reports.text import ROWS
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats import find
from sparseflow.runtime.products.known import known_policies

if TYPE_CHECKING:
    from sparseflow.compiler.bank import WeightBank
    from sparseflow.compiler.build import Program


@dataclass(frozen=True)
class Known:
    """A product of which a table knows what would run for which M."""

    weights: tuple[str, ...]
    N: int
    K: int
    ranges: tuple[Range, ...]


def what_pruning_would_do(
    programs: Sequence[Program], bank: WeightBank, options: CompileOptions
) -> dict[str, Any]:
    """Return what a report says of layers that are not 2:4; nothing where every layer is that can be.

    Nothing is measured for it.

    Returns:
        ``layers`` that would run sparse if they were 2:4, how many of them are ``two_four`` already, and
        ``expected``: by M the speed-up of those that are not, as far as tables of this machine have them,
        which are ``known`` of them.
    """
    prunable = {name for program in programs for name in program.phases.prunable}
    if not prunable:
        return {}
    products = _distinct(product for program in programs for product in program.products_if_pruned)
    layers = {name for product in products for name in product.weights}
    if not layers & prunable:
        return {}
    dense = [product for product in products if prunable.intersection(product.weights)]
    known = [] if options.policy == "sparse" else _known(dense, bank, options)
    gains = {str(m): gain for m in ROWS if (gain := expected(known, m)) is not None}
    return {
        "layers": len(layers),
        "two_four": len(layers - prunable),
        "known": len(prunable.intersection(name for product in known for name in product.weights)),
        "expected": gains,
    }


def _distinct(products: Iterable[Product]) -> list[Product]:
    """Return each layer once: programs share weights, and may merge them otherwise."""
    found: list[Product] = []
    seen: set[str] = set()
    for product in products:
        if not seen.intersection(product.weights):
            found.append(product)
            seen.update(product.weights)
    return found


def _known(products: Iterable[Product], bank: WeightBank, options: CompileOptions) -> list[Known]:
    groups: dict[tuple[torch.dtype, torch.device, str], list[Product]] = {}
    for product in products:
        key = product.dtype, bank.device(product.weights[0]), product.format
        groups.setdefault(key, []).append(product)
    found = []
    for (dtype, device, format), group in groups.items():
        shapes = [(product.N, product.K) for product in group]
        policies = known_policies(shapes, dtype, device, memory=options.memory, format=format)
        for product in group:
            if (policy := policies.get((product.N, product.K))) is not None:
                ranges = ranges_of(policy) if _runs_sparse(policy, format) else ()
                found.append(Known(product.weights, product.N, product.K, ranges))
    return found


def _runs_sparse(policy: Policy | str, format: str) -> TypeGuard[Policy]:
    """Return whether `apply-policy` leaves such a layer sparse."""
    return isinstance(policy, Policy) and (policy.pays or find(format).lossy)
