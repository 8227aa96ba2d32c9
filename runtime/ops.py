"""The operators ``torch.ops.sparseflow.*``: the native ones, completed by what is written in Python.

Importing this module loads the native library and registers a fake implementation of each operator (for the
meta device, torch.compile and torch.export), an error for inputs that require gradients, the casts of
autocast for ``linear``, and pruning and packing in plain torch for devices without native code.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch._C import DispatchKeySet
from torch._ops import OpOverload

from sparseflow.errors import ArgumentError, InferenceOnlyError
from sparseflow.runtime import native, portable

native.load()

linear = torch.ops.sparseflow.linear.default
prune_2_4 = torch.ops.sparseflow.prune_2_4.default
pack_2_4 = torch.ops.sparseflow.pack_2_4.default
unpack_2_4 = torch.ops.sparseflow.unpack_2_4.default
prune_blocks = torch.ops.sparseflow.prune_blocks.default
pack_blocks = torch.ops.sparseflow.pack_blocks.default
unpack_blocks = torch.ops.sparseflow.unpack_blocks.default
LINEAR_BLOCKS = {6: torch.ops.sparseflow.linear_4_6.default, 8: torch.ops.sparseflow.linear_6_8.default}
"""The operators over weights that keep all but two of each block, by its columns."""

skinny_linear = torch.ops.sparseflow.skinny_linear.default
wide_linear = torch.ops.sparseflow.wide_linear.default
dense_rows = torch.ops.sparseflow.dense_rows.default


def check(condition: bool, message: Callable[[], str]) -> None:
    """Raise RuntimeError with a message if a condition is false, as `torch._check` does.

    That imports sympy when it is first called, which takes longer than loading a model; only conditions on
    symbolic sizes need it.
    """
    if condition is True:
        return
    if condition is False:
        raise RuntimeError(message())
    torch._check(condition, message)


class OperatorLibrary(Protocol):
    """A `torch.library.Library`, which torch doesn't annotate."""

    def define(self, schema: str) -> object:
        """Declare an operator."""

    def impl(
        self, op_name: str, fn: Callable[..., object], dispatch_key: str, *, with_keyset: bool = False
    ) -> None:
        """Implement an operator."""


operator_library: Callable[[str, str], OperatorLibrary] = torch.library.Library
LIBRARY = operator_library("sparseflow", "IMPL")

REGISTERED: dict[int, Callable[..., Tensor]] = {}
"""The functions of kernels registered from Python, by the kernel's code; `kernels.register` fills it."""

_raised = threading.local()


def refuse_gradients(subject: str) -> InferenceOnlyError:
    """Return the error for an operator whose input requires a gradient while gradients are recorded."""
    return InferenceOnlyError(
        subject,
        "an input requires grad, and 2:4 operators are for inference only",
        "call it under torch.inference_mode() or torch.no_grad(), or detach the input",
    )


def refuse_onnx(op: OpOverload) -> ArgumentError:
    """Return the error for an operator that `torch.onnx.export` meets."""
    return ArgumentError(
        "torch.onnx.export",
        f"ONNX has no operator for packed weights, and the model calls torch.ops.sparseflow.{op._opname}",
        "export the dense model: sf.nn.densify(model) turns packed layers back into nn.Linear",
    )


def _below_autograd(op: OpOverload, keyset: DispatchKeySet, *args: object) -> object:
    """Run ``op`` below autograd, so that its result never looks differentiable."""
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        raise refuse_gradients(f"torch.ops.sparseflow.{op._opname}")
    with torch._C._AutoDispatchBelowAutograd():
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _autocast_linear(op: OpOverload, device_type: str, keyset: object, *args: object) -> Tensor:
    """Cast all floating tensors except float64 to the autocast dtype, as torch does for ``F.linear``."""
    dtype = torch.get_autocast_dtype(device_type)
    key = getattr(torch._C.DispatchKey, f"Autocast{device_type.upper()}")
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
        result: Tensor = op(*(autocast(arg, device_type, dtype) for arg in args))
    return result


def autocast(value: object, device_type: str, dtype: torch.dtype) -> object:
    """Return an argument, cast if it is a floating tensor of the device and not float64."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == torch.float64:
        return value
    return value.to(dtype) if value.device.type == device_type else value


def _linear_registered(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    code: int,
) -> Tensor:
    """Run a kernel that was registered from Python; the native ``linear`` calls this."""
    run = REGISTERED.get(code & 255)
    try:
        if run is None:
            raise RuntimeError(f"policy names kernel {code & 255}, which this process has not registered")
        return run(x, values, positions, bias, residual, in_features, epilogue, code)
    except Exception as error:
        _raised.text = f"{type(error).__name__}: {error}" if run else str(error)
        raise


def _registered_failure(code: int) -> str:
    """Return the error of this thread's last `_linear_registered`, as C++ sees only that it failed."""
    text: str = getattr(_raised, "text", f"kernel {code & 255} failed")
    return text


def _fake_linear(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    policy: list[int],
    dense: Tensor | None = None,
) -> Tensor:
    check(
        dense is None or (dense.shape == (values.shape[0], in_features) and dense.dtype == values.dtype),
        lambda: (
            f"sparseflow.linear: dense must be the weight {[values.shape[0], in_features]} in {values.dtype}"
        ),
    )
    gated, n = epilogue.endswith("_gated"), values.shape[0]
    check(not gated or n % 2 == 0, lambda: f"sparseflow.linear: {epilogue} needs an even N, got {n}")
    check(not gated or residual is None, lambda: f"sparseflow.linear: {epilogue} takes no residual")
    return _fake_product("linear", x, values, in_features, n // 2 if gated else n)


def _fake_skinny(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    in_features: int,
    epilogue: str,
    variant: int,
    scales: Tensor | None = None,
) -> Tensor:
    # A weight in fp8 is multiplied in x's dtype.
    weight = values if values.itemsize > 1 else values.new_empty(values.shape, dtype=x.dtype)
    return _fake_product("skinny_linear", x, weight, in_features, values.shape[0])


def _fake_wide(x: Tensor, values: Tensor, positions: Tensor, in_features: int, variant: int) -> Tensor:
    y = _fake_product("wide_linear", x, values, in_features, values.shape[0])
    return y.new_empty(y.shape, dtype=torch.bfloat16)


def _fake_product(op: str, x: Tensor, values: Tensor, in_features: int, out_features: int) -> Tensor:
    check(x.dim() >= 1, lambda: f"sparseflow.{op}: x must have at least one dimension")
    check(x.dtype == values.dtype, lambda: f"sparseflow.{op}: x is {x.dtype}, weight {values.dtype}")
    check(
        x.shape[-1] == in_features,
        lambda: f"sparseflow.{op}: x has {x.shape[-1]} features, the weight {in_features}",
    )
    return x.new_empty((*x.shape[:-1], out_features))


def _fake_dense_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _fake_product("dense_rows", x, weight, weight.shape[1], weight.shape[0])


def _fake_prune(weight: Tensor) -> Tensor:
    return weight.new_empty(weight.shape)


def _fake_pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    n, k = weight.shape
    groups = (k + 3) // 4
    return weight.new_empty(n, 2 * groups), weight.new_empty(n, (groups + 1) // 2, dtype=torch.uint8)


def _fake_unpack(values: Tensor, positions: Tensor, in_features: int) -> Tensor:
    return values.new_empty(values.shape[0], in_features)


def _fake_prune_blocks(weight: Tensor, block: int) -> Tensor:
    return weight.new_empty(weight.shape)


def _fake_pack_blocks(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    n, k = weight.shape
    blocks, bits = (k + block - 1) // block, 4 if block == 6 else 5
    codes = weight.new_empty(n, (blocks * bits + 7) // 8, dtype=torch.uint8)
    return weight.new_empty(n, blocks * (block - 2)), codes


def _fake_unpack_blocks(values: Tensor, positions: Tensor, in_features: int, block: int) -> Tensor:
    return _fake_unpack(values, positions, in_features)


def register_fake(op: OpOverload, fake: Callable[..., object]) -> None:
    """Register an operator's fake implementation, and the errors for gradients and ONNX."""

    @functools.wraps(fake)
    def checked(*args: object, **kwargs: object) -> object:
        if torch.onnx.is_in_onnx_export():
            raise refuse_onnx(op)
        return fake(*args, **kwargs)

    torch.library.register_fake(op, checked)
    LIBRARY.impl(op._opname, functools.partial(_below_autograd, op), "Autograd", with_keyset=True)


def _register() -> None:
    fakes: dict[OpOverload, Callable[..., object]] = {
        linear: _fake_linear,
        prune_2_4: _fake_prune,
        pack_2_4: _fake_pack,
        unpack_2_4: _fake_unpack,
        prune_blocks: _fake_prune_blocks,
        pack_blocks: _fake_pack_blocks,
        unpack_blocks: _fake_unpack_blocks,
        **dict.fromkeys(LINEAR_BLOCKS.values(), _fake_linear),
        skinny_linear: _fake_skinny,
        wide_linear: _fake_wide,
        dense_rows: _fake_dense_rows,
    }
    for op, fake in fakes.items():
        register_fake(op, fake)
    for op in (linear, *LINEAR_BLOCKS.values()):
        for device_type in ("cpu", "cuda"):
            cast = functools.partial(_autocast_linear, op, device_type)
            LIBRARY.impl(op._opname, cast, f"Autocast{device_type.upper()}", with_keyset=True)
    LIBRARY.impl("linear_registered", _linear_registered, "CompositeExplicitAutograd")
    LIBRARY.impl("registered_failure", _registered_failure, "CompositeExplicitAutograd")
    for name in ("prune_2_4", "pack_2_4", "unpack_2_4", "prune_blocks", "pack_blocks", "unpack_blocks"):
        LIBRARY.impl(name, getattr(portable, name), "CUDA")


_register()
