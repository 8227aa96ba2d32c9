"""Read tensor literals, to which MLIR's canonicalization folds constant expressions."""

from __future__ import annotations

import torch
from torch_mlir import ir
from torch_mlir.extras.fx_importer import TORCH_DTYPE_TO_MLIR_TYPE_ASM

from sparseflow.dialect.base import number
from sparseflow.dialect.types import tensor_type
from sparseflow.errors import LoweringError

_DTYPES = {text: dtype for dtype, text in TORCH_DTYPE_TO_MLIR_TYPE_ASM.items()}


def literal_tensor(op: ir.Operation) -> torch.Tensor:
    """Return the tensor of a `torch.vtensor.literal`.

    Raises:
        LoweringError: its elements are not in the module's text, or of a type that PyTorch lacks.
    """
    elements, type_ = op.attributes["value"], tensor_type(op.results[0])
    dtype = _DTYPES.get(type_.dtype or "") if type_ is not None else None
    if (
        type_ is None
        or type_.shape is None
        or dtype is None
        or not isinstance(elements, ir.DenseElementsAttr)
    ):
        raise _unreadable(op)
    shape = [size or 0 for size in type_.shape]
    if elements.is_splat:
        return torch.full(shape, number(elements.get_splat_value()), dtype=dtype)
    if not isinstance(elements, (ir.DenseIntElementsAttr, ir.DenseFPElementsAttr)):
        raise _unreadable(op)
    try:
        return torch.tensor([elements[i] for i in range(len(elements))], dtype=dtype).reshape(shape)
    except TypeError as error:
        raise _unreadable(op) from error


def _unreadable(op: ir.Operation) -> LoweringError:
    return LoweringError(
        f"{op.name} of {op.results[0].type}",
        "the elements of this literal can't be read",
        "make the tensor a weight",
    )
