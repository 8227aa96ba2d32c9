"""Linear layers in fp8 (e4m3): rows of W are scaled when it is packed, rows of x when the layer runs.

    y = act((x8 · W8ᵀ) · x_scale · w_scale + bias) (+ residual)

``sparseflow::linear_fp8`` is the layer. On CUDA it runs as ``linear_fp8_fused``. Where the policy names the
kernel for few rows, that kernel runs alone and leaves x as it is:

    y = act((x · W8ᵀ) · w_scale + bias) (+ residual)

Where it names the kernel for many rows, x is quantised first, and that kernel applies both scales and the
rest; for other policies scaling the result is a third kernel. On a CPU, and while torch.compile traces it for
many rows, the layer decomposes into torch's operators around ``sparseflow::product_fp8``, or for that kernel
``sparseflow::linear_fp8_quantized``, so that inductor fuses the scaling with neighbouring operators.
``product_fp8`` leaves the scales to them, because cuSPARSELt supports only one scale for a whole matrix.
torch's dense product supports one a row: for many rows it applies them, and the bias, itself.

An epilogue ``"<act>_gated"`` gives ``act(g) * u`` for the halves g and u of what the parentheses hold: inside
of an own kernel if its variant can, else in the last kernel.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from sparseflow.runtime import epilogues, native, ops, portable

native.load()

E4M3 = torch.float8_e4m3fn

LARGEST = 448.0
"""The largest finite magnitude of e4m3."""

MAXIMA = (448.0, 416.0, 384.0, 352.0, 320.0, 288.0, 256.0, 240.0)
"""What the largest magnitude of a weight's row may become: one number of e4m3 for each of its mantissas.

So a row that is in e4m3 already, times any scale, finds its numbers again.
"""

SAMPLED = 1024
"""About so many elements of a row decide which of `MAXIMA` it gets."""

SMALLEST_SCALE = torch.finfo(torch.float32).tiny
"""The least scale of a row, whose reciprocal is finite: rows of zeros have it."""

DENSE, CUSPARSELT, SKINNY, WIDE = 0, 2, 3, 5
"""The codes of torch's product, cuSPARSELt's and ours for few and for many rows (csrc/common/kernels.h)."""

BY_ROWS = 512
"""From so many rows on torch's product applies both scales itself (csrc/cuda/fp8.cpp has the same number).

For fewer, an H200 took up to twice as long for it as for the product that is scaled by one number."""

linear_fp8 = torch.ops.sparseflow.linear_fp8.default
product_fp8 = torch.ops.sparseflow.product_fp8.default
linear_fp8_fused = torch.ops.sparseflow.linear_fp8_fused.default
linear_fp8_quantized = torch.ops.sparseflow.linear_fp8_quantized.default
linear_fp8_both = torch.ops.sparseflow.linear_fp8_both.default

_EPILOGUES = ("none", *epilogues.ACTIVATIONS, *(f"{name}_gated" for name in epilogues.ACTIVATIONS))


def quantize_rows(t: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row with its own scale, chosen so that the row's largest magnitude becomes `LARGEST`.

    Args:
        t: ``[…, K]`` with K ≥ 1, of a floating dtype.

    Returns:
        The quantised rows ``[…, K]`` in e4m3 and their scales ``[…, 1]`` in float32; a row is approximately
        their product. A row with NaN or Inf has the scale NaN, so that all its results are NaN.
    """
    wide = t.float()
    largest = wide.abs().amax(-1, keepdim=True)
    scale = _scale_of(largest, LARGEST)
    return (wide * scale.reciprocal()).to(E4M3), scale


def quantize_weight(t: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row with the scale, of one for each of `MAXIMA`, that loses least in the mean square.

    It takes a few times as long as `quantize_rows`, and is for weights. Of normal values the error is 2 to
    6 % smaller; rows that were dequantised from e4m3 with one scale a row or a matrix lose nothing.

    Args:
        t: ``[…, K]`` with K ≥ 1, of a floating dtype.

    Returns:
        As `quantize_rows`.
    """
    wide = t.float()
    largest = wide.abs().amax(-1, keepdim=True)
    sample = wide[..., :: max(1, wide.shape[-1] // SAMPLED)] / largest
    scale, least = _scale_of(largest, LARGEST), torch.full_like(largest, float("inf"))
    for maximum in MAXIMA:
        lost = ((sample * maximum).to(E4M3).float() / maximum - sample).square().sum(-1, keepdim=True)
        better = lost < least  # never for rows of zeros and of NaN
        scale = torch.where(better, _scale_of(largest, maximum), scale)
        least = torch.where(better, lost, least)
    return (wide * scale.reciprocal()).to(E4M3), scale


def _scale_of(largest: Tensor, maximum: float) -> Tensor:
    """Return the scale by which the largest magnitude of a row becomes `maximum`; NaN for NaN and Inf."""
    scale = (largest / maximum).clamp(min=SMALLEST_SCALE)
    return torch.where(largest < float("inf"), scale, float("nan"))


def rescale(
    raw: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, epilogue: str, residual: Tensor | None
) -> Tensor:
    """Return ``act(raw · x_scale · w_scale + bias) (+ residual)``, ``[…, N]`` in float32.

    Args:
        raw: ``[…, N]``, the product of quantised rows.
        x_scale: ``[…, 1]``.
        w_scale: ``[N]``.
        bias: ``[N]``, or None.
        epilogue: ``"none"``, ``"relu"``, ``"gelu"``, ``"gelu_tanh"`` or ``"silu"``; or one of the last four
            with ``"_gated"``, which gives ``[…, N/2]`` and takes no residual.
        residual: ``[…, N]``, or None.

    Raises:
        RuntimeError: an unknown epilogue, or a gate that can't be, as torch's operators raise.
    """
    check_epilogue(epilogue, raw.shape[-1], residual)
    # The weight's scale comes first: raw may be large, and times a large scale of x it could overflow.
    return epilogues.finish(raw.float() * w_scale * x_scale, bias, epilogue, residual)


def check_epilogue(epilogue: str, n: int, residual: Tensor | None) -> None:
    """Refuse an unknown epilogue, or a gate that can't be."""
    gated = epilogue.endswith("_gated")
    ops.check(
        epilogue in _EPILOGUES,
        lambda: f"sparseflow::linear_fp8: epilogue must be one of {', '.join(_EPILOGUES)}, got '{epilogue}'",
    )
    ops.check(not gated or n % 2 == 0, lambda: f"sparseflow::linear_fp8: {epilogue} needs an even N, got {n}")
    ops.check(not gated or residual is None, lambda: f"sparseflow::linear_fp8: {epilogue} takes no residual")


def _linear(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    require_no_gradients(x, bias, residual)
    weight = values, positions, scales
    # What torch.compile traces is a subclass.
    if x.is_cuda and (type(x) is Tensor or kernel_of(x, policy) == SKINNY):
        fused: Tensor = linear_fp8_fused(x, *weight, bias, residual, in_features, epilogue, policy, dense)
        return fused
    rows = quantize_rows(x)
    return after_quantizing(*rows, *weight, bias, residual, in_features, epilogue, x.dtype, policy, dense)


def require_no_gradients(*inputs: Tensor | None) -> None:
    """Refuse inputs of a layer that require gradients, where they are recorded."""
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
        raise ops.refuse_gradients("torch.ops.sparseflow.linear_fp8")


def after_quantizing(
    x8: Tensor,
    x_scale: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    out_dtype: torch.dtype,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    """Compute a layer of rows that are quantised already, as torch.compile traces it for many of them.

    Args:
        x8: ``[…, K]`` in e4m3.
        x_scale: ``[…, 1]``.
        values: with the rest, up to the epilogue, as ``linear_fp8`` takes them.
        positions: see there.
        scales: see there.
        bias: see there.
        residual: see there.
        in_features: see there.
        epilogue: see there.
        out_dtype: of the result.
        policy: see there.
        dense: see there.
    """
    kernel = kernel_of(x8, policy) if x8.is_cuda else None
    if kernel == WIDE:
        weight, rest = (values, positions, scales), (bias, residual, in_features, epilogue)
        y: Tensor = linear_fp8_quantized(x8, x_scale, *weight, *rest, out_dtype, policy, dense)
        return y
    if kernel == DENSE and dense is not None and scaled_by_rows(x8, out_dtype):
        return _dense_by_rows(x8, x_scale, dense, scales, bias, residual, epilogue)
    raw = product_fp8(x8, values, positions, in_features, policy, dense)
    return rescale(raw, x_scale, scales, bias, epilogue, residual).to(out_dtype)


def linear_fp8_after_norm(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    """Run ``linear_fp8_fused`` where inductor makes x by a reduction of its rows, as a norm does.

    A program that torch.compile makes for every M has rows in both forms then, from one kernel: those routes
    that multiply e4m3 need none of their own to quantise.
    """
    rest = (values, positions, scales, bias, residual, in_features, epilogue, policy, dense)
    if not torch.compiler.is_compiling():
        fused: Tensor = linear_fp8_fused(x, *rest)
        return fused
    y: Tensor = linear_fp8_both(x, *quantize_rows(x), *rest)
    return y


def scaled_by_rows(x8: Tensor, out_dtype: torch.dtype) -> bool:
    """Return whether torch's product applies the scales of x's rows and of W's in its end."""
    return x8.is_cuda and out_dtype == torch.bfloat16 and math.prod(x8.shape[:-1]) >= BY_ROWS


def _dense_by_rows(
    x8: Tensor,
    x_scale: Tensor,
    dense: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    epilogue: str,
) -> Tensor:
    """Multiply by the dense weight, scales and bias included, so that no kernel has to scale the result.

    The activation follows it, as in a dense model, where inductor fuses it with what reads y.
    """
    y = torch._scaled_mm(
        x8.flatten(0, -2),
        dense.t(),
        scale_a=x_scale.flatten(0, -2),
        scale_b=scales.unsqueeze(0),
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    ).view(*x8.shape[:-1], -1)
    return y if epilogue == "none" and residual is None else epilogues.finish(y, None, epilogue, residual)


def kernel_of(x: Tensor, policy: list[int]) -> int | None:
    """Return the code of the kernel that a policy names for these rows; None where tracing leaves M open."""
    rows = math.prod(x.shape[:-1])
    if not isinstance(rows, int):
        return None
    codes = [code for first, code in zip(policy[::2], policy[1::2], strict=True) if first <= rows]
    return codes[-1] & 255 if codes else None


def _product(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    in_features: int,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    """Multiply on the CPU, in float32 and rounded as on the GPU; no policy applies there."""
    _fake_product(x, values, positions, in_features, policy, dense)  # for its checks
    # torch can't scatter fp8 values.
    weight = portable.unpack_2_4(values.float(), positions, in_features) if dense is None else dense
    return (x.float() @ weight.float().T).to(torch.bfloat16)


def _fake_product(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    in_features: int,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    ops.check(
        x.dtype == values.dtype == E4M3,
        lambda: f"sparseflow::product_fp8: x and weight must be {E4M3}, got {x.dtype} and {values.dtype}",
    )
    ops.check(
        x.dim() >= 1 and x.shape[-1] == in_features,
        lambda: f"sparseflow::product_fp8: x must be [..., {in_features}], got {list(x.shape)}",
    )
    ops.check(
        dense is None or (dense.shape == (values.shape[0], in_features) and dense.dtype == E4M3),
        lambda: (
            f"sparseflow::product_fp8: dense must be the weight [{values.shape[0]}, {in_features}] in {E4M3}"
        ),
    )
    return x.new_empty((*x.shape[:-1], values.shape[0]), dtype=torch.bfloat16)


def _fake_fused(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    ops.check(
        x.dim() >= 1 and x.shape[-1] == in_features,
        lambda: f"sparseflow::linear_fp8: x must be [..., {in_features}], got {list(x.shape)}",
    )
    n = values.shape[0]
    check_epilogue(epilogue, n, residual)
    return x.new_empty((*x.shape[:-1], n // 2 if epilogue.endswith("_gated") else n))


def _fake_quantized(
    x: Tensor,
    x_scale: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    out_dtype: torch.dtype,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    y = _fake_fused(x, values, positions, scales, bias, residual, in_features, epilogue, policy, dense)
    return y.new_empty(y.shape, dtype=out_dtype)


def _fake_both(x: Tensor, x8: Tensor, x_scale: Tensor, *rest: Any) -> Tensor:
    ops.check(
        x8.shape == x.shape and x8.dtype == E4M3,
        lambda: f"sparseflow::linear_fp8_both: x8 must be x in {E4M3}, got {list(x8.shape)} in {x8.dtype}",
    )
    return _fake_fused(x, *rest)


def _autocast(device_type: str, keyset: object, x: Tensor, *args: object) -> Tensor:
    """Cast x, bias and residual to the autocast dtype, as for ``F.linear``; the weight stays as it is."""
    key = getattr(torch._C.DispatchKey, f"Autocast{device_type.upper()}")
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        cast = functools.partial(
            ops.autocast, device_type=device_type, dtype=torch.get_autocast_dtype(device_type)
        )
        weight, (bias, residual), rest = args[:3], args[3:5], args[5:]
        result: Tensor = linear_fp8(cast(x), *weight, cast(bias), cast(residual), *rest)
    return result


def _register() -> None:
    library = ops.LIBRARY
    library.impl("linear_fp8", _linear, "CompositeImplicitAutograd")
    library.impl("product_fp8", _product, "CPU")
    ops.register_fake(product_fp8, _fake_product)
    # Gradients were refused by linear_fp8, which nothing but this calls.
    torch.library.register_fake(linear_fp8_fused, _fake_fused)
    torch.library.register_fake(linear_fp8_quantized, _fake_quantized)
    torch.library.register_fake(linear_fp8_both, _fake_both)
    for device_type in ("cpu", "cuda"):
        cast = functools.partial(_autocast, device_type)
        library.impl("linear_fp8", cast, f"Autocast{device_type.upper()}", with_keyset=True)


_register()
