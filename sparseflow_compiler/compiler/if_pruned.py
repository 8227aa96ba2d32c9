"""The sparse products that a program would have if more of its weights were 2:4."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch_mlir import ir

from sparseflow.dialect.linear import layer_format, product_dtype
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.passes import run_pipeline
from sparseflow.passes.phases import PipelineOptions, pipeline
from sparseflow.runtime.formats.tensors import TORCH_DTYPES


@dataclass(frozen=True)
class Product:
    """A product that would be sparse.

    Attributes:
        weights: the names of its weight's parts; several where layers are merged.
        N: out features of all.
        K: in features.
        dtype: that is multiplied.
        format: of the weight.
    """

    weights: tuple[str, ...]
    N: int
    K: int
    dtype: torch.dtype
    format: str


def products_if_pruned(
    imported: ir.Operation, options: PipelineOptions, prunable: Collection[str]
) -> tuple[Product, ...]:
    """Return the sparse products that a program would have if some more weights were 2:4.

    Args:
        imported: the program in the Torch dialect; it stays as it is.
        options: what its passes were made from.
        prunable: the weights that pruning would make 2:4.
    """
    marks = {**options.dense} if isinstance(options.dense, Mapping) else {}
    left = {name: reason for name, reason in marks.items() if name not in prunable}
    module = _copy(imported)
    run_pipeline(module, pipeline("merged", replace(options, dense=left or None)))
    found = (_product(op) for op in operations(module, ("sparse_gemm.linear",)))
    return tuple(product for product in found if product is not None)


def _copy(module: ir.Operation) -> ir.Module:
    with module.context, ir.Location.unknown():
        copy, clone = ir.Module.create(), module.clone()  # the clone owns its operations until they move
        for op in list(clone.regions[0].blocks[0].operations):
            copy.body.append(op)
    return copy


def _product(op: ir.Operation) -> Product | None:
    ref, type_, dtype = weight_ref(op.operands[1]), tensor_type(op.operands[1]), product_dtype(op)
    n, k = (type_ and type_.shape) or (None, None)
    if ref is None or n is None or k is None or dtype not in TORCH_DTYPES:
        return None
    return Product(ref.names, n, k, TORCH_DTYPES[dtype], layer_format(op).name)
