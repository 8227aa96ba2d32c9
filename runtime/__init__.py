"""What a compiled model needs at run time: packed weights, operators, dispatch. Never imports torch_mlir.

The public names load on first use: what needs no torch (``backends``, ``dispatch.policy``) stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseflow.runtime.backends import Backend
    from sparseflow.runtime.dispatch import Policy, calibrate, choose
    from sparseflow.runtime.matmul import sparse_mm
    from sparseflow.runtime.packed import PackedWeight, compress_2_4
    from sparseflow.runtime.pattern import first_violation, is_24, prune_24

__all__ = [
    "Backend",
    "PackedWeight",
    "Policy",
    "calibrate",
    "choose",
    "compress_2_4",
    "first_violation",
    "is_24",
    "prune_24",
    "sparse_mm",
]

_HOME = {
    "Backend": "backends",
    "PackedWeight": "packed",
    "Policy": "dispatch",
    "calibrate": "dispatch",
    "choose": "dispatch",
    "compress_2_4": "packed",
    "first_violation": "pattern",
    "is_24": "pattern",
    "prune_24": "pattern",
    "sparse_mm": "matmul",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
