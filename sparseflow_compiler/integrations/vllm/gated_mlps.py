"""MLPs of vLLM whose gate is applied by the product of gate and up, not by a kernel of its own after it.

vLLM multiplies gate and up by one merged weight, and its module ``act_fn`` then gates the result. Where the
MLP is known to do just that, the product's epilogue gates, and ``act_fn`` does nothing.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import weakref
from collections.abc import Callable

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

_IN_TURN = ["gate_up_proj", "act_fn", "down_proj"]
"""The submodules that an MLP calls, each with the result of the one before."""


class Parents:
    """The modules that layers are put into while a model is built.

    vLLM tells a layer its name, but not the module that has it.
    """

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module]] = weakref.WeakKeyDictionary()
        self._stop: Callable[[], object] | None = None

    def watch(self, layer: nn.Module) -> None:
        """Note the module that a layer is put into; until `end`."""
        self._of[layer] = weakref.ref(layer)  # until it has a parent
        if self._stop is None:
            watching = weakref.ref(self)
            handle = register_module_module_registration_hook(functools.partial(_note, watching))
            # The hook is for all modules of the process: it mustn't stay after an engine that was refused.
            self._stop = weakref.finalize(self, handle.remove)

    def end(self) -> None:
        """Watch no more."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def parent(self, layer: nn.Module) -> nn.Module | None:
        """Return the module that a layer was put into; None if it isn't known."""
        found = self._of.get(layer)
        parent = found() if found is not None else None
        return None if parent is layer else parent

    def note(self, parent: nn.Module, layer: nn.Module) -> None:
        """Note that a layer is put into a module."""
        if layer in self._of:
            self._of[layer] = weakref.ref(parent)


def _note(watching: weakref.ref[Parents], parent: nn.Module, name: str, layer: nn.Module | None) -> None:
    if (parents := watching()) is not None and layer is not None:
        parents.note(parent, layer)


def gate_after(layer: nn.Module, parent: nn.Module | None) -> str | None:
    """Return the epilogue that gates a layer's product as its MLP does; None if the MLP isn't known to.

    Args:
        layer: of vLLM, with the merged weight.
        parent: the module that it is in.
    """
    sizes = getattr(layer, "output_sizes", None)
    if parent is None or sizes is None or len(sizes) != 2 or sizes[0] != sizes[1]:
        return None
    if getattr(parent, "gate_up_proj", None) is not layer or not _calls_in_turn(type(parent).forward):
        return None
    return _epilogue_of(getattr(parent, "act_fn", None))


def remove_gate(parent: nn.Module) -> None:
    """Make an MLP's ``act_fn`` return what it is given."""
    parent.act_fn = nn.Identity()


def _epilogue_of(activation: object) -> str | None:
    from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul

    if type(activation) is SiluAndMul:
        return "silu_gated"
    if type(activation) is GeluAndMul:
        approximate = getattr(activation, "approximate", "")
        return {"none": "gelu_gated", "tanh": "gelu_tanh_gated"}.get(approximate)
    return None


@functools.cache
def _calls_in_turn(forward: Callable[..., object]) -> bool:
    """Return whether an MLP's ``forward`` calls `_IN_TURN` one after the other and does nothing else."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError):
        return False
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef) or len(function.args.args) != 2:
        return False
    last, called = function.args.args[1].arg, []
    *statements, end = function.body
    for statement in statements:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            return False
        called.append(_called_with(statement.value, last))
        last = _first_name(statement.targets[0])
    returned = end.value if isinstance(end, ast.Return) else None
    return called == _IN_TURN and isinstance(returned, ast.Name) and returned.id == last


def _called_with(call: ast.expr, name: str) -> str:
    """Return X of ``self.X(name)``; empty for all else.

    ``maybe_fused_act_quant(self.X, name, …)`` of newer versions of vLLM is the same for a layer of ours.
    """
    match call:
        case ast.Call(
            func=ast.Name(id="maybe_fused_act_quant"),
            args=[ast.Attribute(value=ast.Name(id="self"), attr=attr), ast.Name(id=given), _],
            keywords=[],
        ) if given == name:
            return attr
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="self"), attr=attr), args=[ast.Name(id=given)], keywords=[]
        ) if given == name:
            return attr
    return ""


def _first_name(target: ast.expr) -> str:
    """Return a of ``a = …`` and of ``a, _ = …``; empty for all else."""
    match target:
        case ast.Name(id=name) | ast.Tuple(elts=[ast.Name(id=name), ast.Name(id="_")]):
            return name
    return ""
