"""Classify kernels by name."""

from __future__ import annotations

import re
from typing import Literal, get_args

Kind = Literal["GEMM", "attention", "elementwise", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TABLE: tuple[tuple[Kind, str], ...] = (
    # Inductor names a kernel after everything that it fuses, and after its consumers.
    ("elementwise", r"^triton_(poi|red|per|for|spl)_"),
    # Attention kernels may be CUTLASS kernels too, so they are matched before products.
    ("attention", r"flash|fmha|sdpa|attention|flex_attn"),
    ("other", r"^mem(cpy|set)\b|^aten::_?local_scalar_dense"),
    (
        "elementwise",
        r"^(void )?sparseflow::.*\b(gate_(eights|ones)|activate_eights|quantize(_held)?|norm_held|finish)\b",
    ),
    # cuBLAS, CUTLASS, cuSPARSELt; ours, unpacking for a dense product included; inductor's templates.
    ("GEMM", r"nvjet|gemm|gemv|cutlass|xmma|cublas|splitk|cusparselt|^(void )?sparseflow::|triton_tem"),
    ("GEMM", r"^(aten|mkldnn)::_?(addmm|mm|bmm|baddbmm|addmv|mv|linear|matmul|scaled_mm|mkldnn_linear|conv)"),
    ("GEMM", r"^aten::(_sparse_semi_structured|_cslt_sparse)_\w*mm|^(aten|mkldnn)::\w*convolution"),
    # Views, memory and Python's sizes: named before the pointwise operators whose names they contain.
    (
        "other",
        r"^aten::(view|_?reshape|_unsafe_view|as_strided|expand|detach|alias|slice|select|t$|transpose)",
    ),
    (
        "other",
        r"^aten::(permute|unsqueeze|squeeze|split|chunk|unbind|narrow|resize|set_|empty|new_empty|lift)",
    ),
    ("elementwise", r"elementwise|reduce_kernel|norm|softmax|vectorized|reduction"),
    (
        "elementwise",
        r"index|gather|scatter|catarray|rotary|rope|embedding|copy|cast|arange|scan|fill|sort|topk",
    ),
    ("elementwise", r"^(aten|prims)::"),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _TABLE)


def kind_of(name: str) -> Kind:
    """Return the kind of a CUDA kernel or CPU operator; "other" if unknown.

    "elementwise" includes reductions, normalisations and data movement; "GEMM" all matrix products.
    """
    return next((kind for kind, pattern in _PATTERNS if pattern.search(name)), "other")
