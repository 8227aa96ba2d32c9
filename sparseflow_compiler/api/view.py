"""The view of a compiled model on the model behind it: its attributes, methods and parameters."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from sparseflow.api import compiled_methods
from sparseflow.errors import ArgumentError
from sparseflow.runtime.calling.frozen import samples
from sparseflow.runtime.calling.inference import InferenceModule

if TYPE_CHECKING:
    from sparseflow.api.compiled import CompiledModel
    from sparseflow.compiler.options import CompileOptions


def _refuse_as_forward(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
    """Refuse ``model.forward = compiled``, which torch would register as a submodule and never call."""
    if name == "forward" and isinstance(submodule, ModelView) and submodule.runs(module):
        raise ArgumentError(
            f"{type(module).__name__}.forward = compiled",
            "torch would make a submodule of it and go on calling the model's own forward",
            "assign compiled.forward",
        )


@functools.cache
def _watch_assignments() -> None:
    register_module_module_registration_hook(_refuse_as_forward)


class ModelView(InferenceModule):
    """A module whose missing attributes are the model's, and on which the model's methods run compiled.

    Args:
        model: the compiled model's original. It isn't registered as a submodule, as its dense weights are not
            part of the compiled model.
    """

    _options: CompileOptions

    def __init__(self, model: nn.Module) -> None:
        super().__init__(f"compiled {type(model).__name__}")
        object.__setattr__(self, "_model", model)
        _watch_assignments()
        self.watched_methods: set[str] = set()
        self.dense_methods: list[str] = []
        self._parts: dict[str, CompiledModel] = {}

    @property
    def model_behind(self) -> nn.Module:
        """The model that was compiled."""
        model: nn.Module = vars(self)["_model"]
        return model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_model" not in vars(self):
                raise
        return compiled_methods.method(self, name, getattr(self.model_behind, name))

    def part(self, name: str, function: Callable[..., object]) -> CompiledModel:
        """Return a function of the model, compiled beside its forward over the same weights.

        Args:
            name: the function's name; each name is compiled once.
            function: a function that reads the model's tensors.
        """
        raise NotImplementedError

    def runs_densely(self, name: str) -> None:
        """Warn, once, that a method runs the original layers, and record it for the report."""
        if name not in self.dense_methods:
            self.dense_methods.append(name)
            compiled_methods.warn_dense(self._subject, name)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the original model's parameters; the programs run packed copies."""
        return self.model_behind.parameters(recurse)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Return `parameters` with their names."""
        return self.model_behind.named_parameters(*args, **kwargs)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Return the original model's buffers."""
        return self.model_behind.buffers(recurse)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """Return `buffers` with their names."""
        return self.model_behind.named_buffers(*args, **kwargs)

    def _samples(self) -> list[Tensor]:
        return samples([*self.parameters(), *self.buffers()])

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return a compiled copy of the model with the same options, which captures on its own."""
        if self._options.inplace:
            self._refuse(
                "copy.deepcopy", "the model's own weights were released (inplace)", self._way_to_keep
            )
        return type(self)(copy.deepcopy(self.model_behind, memo), self._options)  # type: ignore[call-arg]


class Part(nn.Module):
    """A function of a model as a module, whose tensors have the same names as in the model.

    Args:
        model: the model.
        function: the function to run as forward.
    """

    def __init__(self, model: nn.Module, function: Callable[..., object]) -> None:
        super().__init__()
        self.training = model.training
        object.__setattr__(self, "whole", model)
        self.function = function
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            vars(self)[kind] = vars(model)[kind]

    def forward(self, *args: object, **kwargs: object) -> object:
        """Call the function."""
        return self.function(*args, **kwargs)
