"""Compression by cuSPARSELt, which supports dtypes that SparseFlow's own packing doesn't."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.device_weight import DeviceWeight
from sparseflow.runtime.gpu import library

LIBRARY_DTYPES = (torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)


def compress(weight: Tensor) -> DeviceWeight:
    """Compress a pruned weight ``[N, K]`` on a CUDA device.

    Args:
        weight: a 2:4 weight in bfloat16, float16, int8 or float8_e4m3fn.

    Raises:
        ArgumentError: the weight has another dtype.
        NativeLibraryError: the library is missing or unusable.
    """
    if weight.dtype not in LIBRARY_DTYPES or weight.dim() != 2 or not weight.is_cuda:
        raise ArgumentError(
            "weight",
            f"cuSPARSELt compresses matrices of {', '.join(map(str, LIBRARY_DTYPES))} on CUDA, "
            f"got {weight.dtype} {list(weight.shape)} on {weight.device}",
        )
    library.require(weight.device)
    # The library counts −0.0 as a nonzero.
    clean = weight if weight.dtype == torch.int8 else (weight.float() + 0.0).to(weight.dtype)
    buffer = torch.ops.sparseflow.cusparselt_compress(clean)
    n, k = weight.shape
    return DeviceWeight.of_buffer(buffer, n, k, weight.dtype)
