"""The integer codes of dtypes, layouts and memory formats in the Torch dialect, as in c10."""

from __future__ import annotations

import torch

DTYPE_CODES: dict[torch.dtype, int] = {
    getattr(torch, name): code
    for name, code in {
        "uint8": 0,
        "int8": 1,
        "int16": 2,
        "int32": 3,
        "int64": 4,
        "float16": 5,
        "float32": 6,
        "float64": 7,
        "complex32": 8,
        "complex64": 9,
        "complex128": 10,
        "bool": 11,
        "bfloat16": 15,
        "float8_e5m2": 23,
        "float8_e4m3fn": 24,
        "float8_e5m2fnuz": 25,
        "float8_e4m3fnuz": 26,
        "uint16": 27,
        "uint32": 28,
        "uint64": 29,
        "float8_e8m0fnu": 44,
        "float4_e2m1fn_x2": 45,
    }.items()
    if hasattr(torch, name)
}
DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}

LAYOUTS = {
    0: torch.strided,
    1: torch.sparse_coo,
    2: torch.sparse_csr,
    3: torch.sparse_csc,
    4: torch.sparse_bsr,
    5: torch.sparse_bsc,
}
MEMORY_FORMATS = {
    0: torch.contiguous_format,
    1: torch.preserve_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
}
