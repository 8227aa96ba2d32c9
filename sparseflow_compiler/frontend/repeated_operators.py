"""Trace an operator once for all calls of it with tensors of the same sizes, as the layers of a model make them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental import proxy_tensor
from torch.utils import _pytree as pytree

from sparseflow.frontend.sharing import storage_of

_SYMBOLIC = (SymInt, SymFloat, SymBool)
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_REUSED = ("val", "tensor_meta")
_OF_THE_PLACE = frozenset(
    {"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "original_aten", "custom", "seq_nr"}
)
"""What torch notes of where in the model a node was made, for each node anew."""

_MORE_THAN_SIZES = frozenset(
    {
        torch.Tag.data_dependent_output,
        torch.Tag.dynamic_output_shape,
        torch.Tag.nondeterministic_seeded,
    }
)


@contextmanager
def repeated_operators() -> Iterator[None]:
    """Let the trace that runs reuse, in a `with` block, what an operator gave for arguments of the same kind.

    torch computes the sizes and strides of each result anew with symbols, through every operator that it is
    made of: some ten milliseconds for each of the 2000 operators of a model of 30 layers. An operator's node
    follows from the sizes, strides and dtypes of its arguments alone, so that a second one is the first one's
    with other operands. What depends on more is traced as ever: operators that write or draw random numbers,
    read values, or return a view of an input or an argument itself.
    """
    mode = proxy_tensor.get_proxy_mode()
    if not isinstance(mode, proxy_tensor.ProxyTorchDispatchMode):
        yield
        return
    # On the instance, where torch looks it up: other traces go on as they do.
    vars(mode)["__torch_dispatch__"] = _Repeated(mode)
    try:
        yield
    finally:
        del vars(mode)["__torch_dispatch__"]


def _repeatable(func: OpOverload) -> bool:
    return not func._schema.is_mutable and _MORE_THAN_SIZES.isdisjoint(func.tags)


def _transformed() -> bool:
    """Return whether operators become others: under autocast, and inside vmap and its like."""
    return torch._C._is_any_autocast_enabled() or torch._C._functorch.maybe_current_level() is not None


def _surroundings() -> Hashable:
    """Return the settings that results' dtypes and strides may follow from."""
    attention = (
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
        torch._C._get_cudnn_sdp_enabled(),
    )
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(), attention


class _Repeated:
    """The dispatch of a trace, with what operators gave before.

    Intermediate results that are made from the same earlier one stand on one storage in the trace, which
    nothing asks for: of inputs, parameters and buffers, whose storages matter, no view is made so.
    """

    def __init__(self, mode: proxy_tensor.ProxyTorchDispatchMode) -> None:
        self._dispatch: Callable[..., object] = mode.__torch_dispatch__
        self._tracer: Any = mode.tracer
        self._given = {storage_of(tensor) for tensor in self._tracer.tensor_tracker}
        self._made: dict[Hashable, Mapping[str, object] | None] = {}

    def __call__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload) or not _repeatable(func) or _transformed():
            return self._dispatch(func, types, args, kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        kinds = self._kinds(leaves)
        if kinds is None:
            return self._dispatch(func, types, args, kwargs)
        key = (func, spec, kinds, _surroundings())
        if made := self._made.get(key):
            return self._again(func, leaves, spec, made)
        last = self._last()
        result = self._dispatch(func, types, args, kwargs)
        if key not in self._made:
            self._made[key] = self._meta(func, leaves, result, last)
        return result

    def _again(
        self, func: OpOverload, leaves: list[Any], spec: pytree.TreeSpec, made: Mapping[str, Any]
    ) -> object:
        """Add a node with other operands, and return its result."""
        args, kwargs = pytree.tree_unflatten([self._operand(leaf) for leaf in leaves], spec)
        name = self._tracer.graph._target_to_str(func.overloadpacket.__name__)
        with proxy_tensor.set_original_aten_op(func):
            proxy = self._tracer.create_proxy("call_function", func, args, kwargs, name=name)
        proxy.node.meta.update(made)
        result = proxy_tensor.snapshot_fake(made["val"])
        proxy_tensor.set_proxy_slot(result, self._tracer, proxy_tensor._ProxyTensor(proxy, None))
        return result

    def _operand(self, leaf: Any) -> object:
        if isinstance(leaf, Tensor):
            return self._tracer.tensor_tracker[leaf].proxy
        return proxy_tensor.fetch_sym_proxy(self._tracer)(leaf) if isinstance(leaf, _SYMBOLIC) else leaf

    def _meta(
        self, func: OpOverload, leaves: list[object], result: object, last: torch.fx.Node
    ) -> Mapping[str, object] | None:
        """Return what torch noted of the node that a call added; None if it can't stand for others."""
        if type(result) is not FakeTensor or any(result is leaf for leaf in leaves):
            return None
        if result.requires_grad or storage_of(result) in self._given:
            return None
        node, tracked = self._last(), self._tracer.tensor_tracker.get(result)
        if tracked is None or tracked.constant is not None or tracked.proxy.node is not node:
            return None
        if node.target is not func or not _OF_THE_PLACE.issuperset(node.meta.keys() - set(_REUSED)):
            return None
        before = node.prev
        while before is not last:  # sizes that the operator takes
            if isinstance(before.meta.get("val"), Tensor):
                return None
            before = before.prev
        return {name: node.meta[name] for name in _REUSED if name in node.meta}

    def _last(self) -> torch.fx.Node:
        node: torch.fx.Node = self._tracer.graph._root.prev
        return node

    def _kinds(self, leaves: Sequence[object]) -> tuple[Hashable, ...] | None:
        """Return what a result's sizes follow from; None if there is no tensor, or something unknown."""
        found: list[Hashable] = []
        tensors = 0
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                kind = self._kind(leaf)
                if kind is None:
                    return None
                found.append(kind)
                tensors += 1
            elif isinstance(leaf, _SYMBOLIC):
                found.append((type(leaf), leaf.node.expr))
            elif isinstance(leaf, _PLAIN):
                found.append((type(leaf), leaf))
            else:
                return None
        return tuple(found) if tensors else None

    def _kind(self, tensor: Tensor) -> Hashable:
        slot = self._tracer.tensor_tracker.get(tensor)
        if not isinstance(tensor, FakeTensor) or slot is None or slot.constant is not None:
            return None
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            return None
        sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
        return (
            tuple(size.node.expr if isinstance(size, SymInt) else size for size in sizes),
            *(tensor.dtype, tensor.device, tensor.requires_grad, storage_of(tensor) in self._given),
        )
