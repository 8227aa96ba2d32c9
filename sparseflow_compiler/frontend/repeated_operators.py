"""Trace an operator once for all its calls with tensors of the same sizes, as a model's layers make them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental import proxy_tensor
from torch.utils import _pytree as pytree

from sparseflow.frontend.library_files import is_library_file
from sparseflow.frontend.sharing import stand_on, storage_of

_SYMBOLIC = (SymInt, SymFloat, SymBool)
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_REUSED = ("val", "tensor_meta")
_OF_THE_PLACE = frozenset(
    {"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "original_aten", "custom", "seq_nr"}
)
"""What torch notes of where in the model a node was made, for each node anew."""

_READS_VALUES = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


@contextmanager
def repeated_operators(caller: CodeType) -> Iterator[None]:
    """Let the trace that runs reuse, in a `with` block, what an operator gave for arguments of the same kind.

    torch computes the sizes and strides of each result anew with symbols, through every operator that it is
    made of: some ten milliseconds for each of the 2000 operators of a model of 30 layers. What it notes of a
    result follows from the sizes, strides and dtypes of the arguments alone, so that a second one's node is
    the first one's with other operands. Operators for which that isn't so are traced as ever.

    Args:
        caller: the function that calls the model; what called it is not looked at for a node's source line.
    """
    mode = proxy_tensor.get_proxy_mode()
    if not isinstance(mode, proxy_tensor.ProxyTorchDispatchMode):
        yield
        return
    # On the instance, where torch looks it up: other traces go on as they do.
    vars(mode)["__torch_dispatch__"] = _Repeated(mode)
    try:
        with _lines_alone(mode.tracer, caller):
            yield
    finally:
        del vars(mode)["__torch_dispatch__"]


@contextmanager
def _lines_alone(tracer: Any, caller: CodeType) -> Iterator[None]:
    """Note at each node the innermost line of the model's own code, in a `with` block.

    torch writes out the hundred calls that led to a node, with the source of each, to keep those in
    `forward`. That is a tenth of a trace.

    Args:
        tracer: the trace's.
        caller: the function that calls the model; what called it is not looked at.
    """
    create: Callable[..., torch.fx.Node] = tracer.create_node

    def create_node(*args: object, **kwargs: object) -> torch.fx.Node:
        node = create(*args, **kwargs)
        if not node.stack_trace:
            node.stack_trace = _line(caller)
        return node

    recorded, tracer.record_stack_traces = tracer.record_stack_traces, False
    tracer.create_node = create_node
    try:
        yield
    finally:
        del tracer.create_node
        tracer.record_stack_traces = recorded


def _line(caller: CodeType) -> str:
    """Return the innermost line of the model's own code as stack traces have it, empty without one."""
    frame = sys._getframe(1)
    while frame.f_code is not caller and is_library_file(frame.f_code.co_filename):
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    code = frame.f_code
    return "" if code is caller else f'File "{code.co_filename}", line {frame.f_lineno}'


@dataclass(frozen=True)
class _Made:
    """What an operator gave.

    Attributes:
        meta: what torch noted of the result at its node.
        itself: which of the arguments it returned; None for a new tensor.
        viewed: the argument of which the new tensor is a view; None if it has its own memory.
    """

    meta: Mapping[str, Any]
    itself: int | None
    viewed: int | None


def _repeatable(func: OpOverload) -> bool:
    """Return whether what is noted of an operator's result follows from the kinds of its arguments.

    It reads no values for that, and writes at most its first argument, which it returns.
    """
    if not _READS_VALUES.isdisjoint(func.tags):
        return False
    schema = func._schema
    if not schema.is_mutable:
        return True
    writes = [place for place, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
    return writes == [0] and schema.name.endswith("_") and len(schema.returns) == 1


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
    """The dispatch of a trace, with what operators gave before."""

    def __init__(self, mode: proxy_tensor.ProxyTorchDispatchMode) -> None:
        self._dispatch: Callable[..., object] = mode.__torch_dispatch__
        self._tracer: Any = mode.tracer
        self._made: dict[Hashable, _Made | None] = {}
        self._memory = itertools.count(-1, -1)

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
            # An operator in place that changed its argument's sizes is made anew each time.
            same = not func._schema.is_mutable or self._kinds(leaves) == kinds
            self._made[key] = self._what(func, leaves, result, last) if same else None
        return result

    def _again(self, func: OpOverload, leaves: list[Any], spec: pytree.TreeSpec, made: _Made) -> object:
        """Add a node with other operands, and return its result."""
        args, kwargs = pytree.tree_unflatten([self._operand(leaf) for leaf in leaves], spec)
        name = self._tracer.graph._target_to_str(func.overloadpacket.__name__)
        with proxy_tensor.set_original_aten_op(func):
            proxy = self._tracer.create_proxy("call_function", func, args, kwargs, name=name)
        proxy.node.meta.update(made.meta)
        if made.itself is not None:
            result = leaves[made.itself]
        else:
            # On the first result's storage, which is not its own: it says what is.
            result = proxy_tensor.snapshot_fake(made.meta["val"])
            assert result is not None, "the first one was a fake tensor"
            memory = next(self._memory) if made.viewed is None else storage_of(leaves[made.viewed])
            stand_on(result, memory)
        proxy_tensor.set_proxy_slot(result, self._tracer, proxy_tensor._ProxyTensor(proxy, None))
        return result

    def _operand(self, leaf: Any) -> object:
        if isinstance(leaf, Tensor):
            return self._tracer.tensor_tracker[leaf].proxy
        return proxy_tensor.fetch_sym_proxy(self._tracer)(leaf) if isinstance(leaf, _SYMBOLIC) else leaf

    def _what(
        self, func: OpOverload, leaves: list[object], result: object, last: torch.fx.Node
    ) -> _Made | None:
        """Return what a call gave; None if it can't stand for others."""
        if type(result) is not FakeTensor or result.requires_grad:
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
        meta = {name: node.meta[name] for name in _REUSED if name in node.meta}
        tensors = [(place, leaf) for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        itself = next((place for place, leaf in tensors if leaf is result), None)
        memory = storage_of(result)
        viewed = next((place for place, leaf in tensors if storage_of(leaf) == memory), None)
        return _Made(meta, itself, viewed)

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
        if not isinstance(tensor, FakeTensor) or tensor.constant is not None:
            return None
        if slot is None or slot.constant is not None:
            return None
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            return None
        sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
        return (
            tuple(size.node.expr if isinstance(size, SymInt) else size for size in sizes),
            *(tensor.dtype, tensor.device, tensor.requires_grad),
        )
