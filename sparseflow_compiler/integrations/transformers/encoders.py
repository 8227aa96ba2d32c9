"""The encoder of an encoder-decoder model, which `generate` calls beside the model's forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from sparseflow.support.documents import Document

_KINDS = {int(kind): kind for kind in inspect._ParameterKind}


def encoder_path(model: nn.Module) -> str:
    """Return the path of the encoder that `generate` calls; empty for models without one."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return ""
    encoder = model.get_encoder()  # type: ignore[operator]
    return next((name for name, module in model.named_modules() if module is encoder), "")


def parameters_of(function: Callable[..., object]) -> list[list[object]]:
    """Return the parameters of a function as JSON: their names and kinds."""
    parameters = inspect.signature(function).parameters.values()
    return [[parameter.name, int(parameter.kind)] for parameter in parameters]


def function_with(parameters: list[tuple[str, int]]) -> Callable[..., object]:
    """Return a function with parameters like those, which `generate` inspects."""

    def forward(*args: object, **kwargs: object) -> object:
        raise NotImplementedError("only the loaded model's forward is called")

    found = [inspect.Parameter(name, _KINDS[kind]) for name, kind in parameters if name != "self"]
    forward.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    return forward


def encoder_document(model: nn.Module) -> Document | None:
    """Return what `generate` reads of a model's encoder as JSON; None without one.

    That is how it is called, and for Whisper the strides of the convolutions at its entry.
    """
    if not (path := encoder_path(model)):
        return None
    encoder = model.get_submodule(path)
    convolutions = ((name, part) for name, part in encoder.named_children() if isinstance(part, nn.Conv1d))
    return {
        "path": path,
        "parameters": parameters_of(encoder.forward),
        "input": getattr(encoder, "main_input_name", "input_ids"),
        "strides": {name: list(part.stride) for name, part in convolutions},
    }


def add_encoder_shell(shell: nn.Module, document: Document) -> None:
    """Put a module without weights in an encoder's place, with every attribute of it that `generate` reads.

    Args:
        shell: the model that has no modules yet.
        document: as `encoder_document` made it.
    """
    *path, last = document["path"].split(".")
    parent = shell
    for name in path:
        parent.add_module(name, nn.Module())
        parent = parent.get_submodule(name)
        vars(parent)["config"] = shell.config
    encoder = nn.Module()
    for name, stride in document["strides"].items():
        part = nn.Module()
        vars(part)["stride"] = tuple(stride)
        encoder.add_module(name, part)
    vars(encoder).update(forward=function_with(document["parameters"]), main_input_name=document["input"])
    parent.add_module(last, encoder)
