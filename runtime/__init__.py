"""What a compiled model needs at run time: packed weights, operators, dispatch. Never imports torch_mlir.

The public names load on first use: what needs no torch (``kernels``, ``dispatch.policy``) stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.runtime.dispatch import Policy, calibrate, choose
    from sparseflow.runtime.packed import PackedWeight, compress_2_4
    from sparseflow.runtime.pattern import Pattern, first_violation, is_24, pattern_of, prune_24
    from sparseflow.runtime.products.matmul import sparse_mm

__all__ = [
    "PackedWeight",
    "Pattern",
    "Policy",
    "calibrate",
    "choose",
    "compress_2_4",
    "first_violation",
    "is_24",
    "pattern_of",
    "prune_24",
    "sparse_mm",
]

__getattr__, __dir__ = lazy.names(
    globals(),
    {
        "PackedWeight": "packed",
        "Pattern": "pattern",
        "Policy": "dispatch",
        "calibrate": "dispatch",
        "choose": "dispatch",
        "compress_2_4": "packed",
        "first_violation": "pattern",
        "is_24": "pattern",
        "pattern_of": "pattern",
        "prune_24": "pattern",
        "sparse_mm": "products.matmul",
    },
)
