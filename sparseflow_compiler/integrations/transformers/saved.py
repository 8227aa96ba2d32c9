"""What a saved model needs of transformers to generate: configuration, tokenizer, a shell of its class."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.arguments import generates
from sparseflow.integrations.transformers.library import library
from sparseflow.runtime.artifact.loading import malformed_as_error
from sparseflow.support.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SHELL = "generation.json"
"""Of an artifact: the class that generated, and what of it steers `generate`."""

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_FLAGS = ("_supports", "_is_stateful", "_can_compile", "main_input_name", "base_model_prefix")
_NOT_SAVED = ("quantization_config", "_name_or_path")


def documents(model: nn.Module) -> dict[str, object]:
    """The files that an artifact keeps of a transformers model, as JSON: what it is, how it generates."""
    config = getattr(model, "config", None)
    if not callable(getattr(config, "to_dict", None)):
        return {}
    values = {name: value for name, value in _plain(config.to_dict()).items() if name not in _NOT_SAVED}  # type: ignore[union-attr]
    if not generates(model):
        return {_CONFIG: values}
    generation = model.generation_config
    parameters = inspect.signature(model.forward).parameters.values()
    shell = {
        "class": type(model).__name__,
        "attention": getattr(config, "_attn_implementation", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "encoder_decoder": bool(getattr(config, "is_encoder_decoder", False)),
        "flags": {name: value for name in dir(type(model)) if (value := _flag(model, name)) is not None},
        "parameters": [[parameter.name, int(parameter.kind)] for parameter in parameters],
    }
    return {_CONFIG: values, _GENERATION: _plain(generation.to_dict()), SHELL: shell}  # type: ignore[union-attr,operator]


def tokenizer_files(tokenizer: object) -> dict[str, bytes]:
    """The files that a tokenizer is saved in, by name.

    Raises:
        ArgumentError: it is none of transformers'.
    """
    if tokenizer is None:
        return {}
    if not hasattr(tokenizer, "save_pretrained"):
        rule = f"tokenizer must be one of transformers, not {type(tokenizer).__name__}"
        raise ArgumentError("compiled.save(tokenizer=…)", rule, "AutoTokenizer.from_pretrained reads one")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = [path for path in Path(folder).iterdir() if path.is_file() and path.name != _CONFIG]
        return {path.name: path.read_bytes() for path in files}


def shell_of(folder: Path, device: Callable[[], torch.device]) -> PreTrainedModel:
    """A module without weights that has all that `generate` reads of the model that was saved.

    Its class is the model's where transformers has it, else one with the usual `generate`.

    Args:
        folder: of the artifact, whose files were verified.
        device: where the loaded model is.

    Raises:
        ArgumentError: transformers is missing, or the model doesn't generate from an artifact.
    """
    transformers = library(f"{folder}: generate")
    with malformed_as_error(folder):
        said = _read(folder, SHELL)
        over_encoder = bool(said["encoder_decoder"])
    if over_encoder:
        raise ArgumentError(
            f"artifact {folder}",
            f"{said['class']} generates over an encoder, whose programs aren't saved",
            "load the model with transformers, and call generate of the compiled one",
        )
    with malformed_as_error(folder):
        return _shell(transformers, folder, said, device)


def _shell(
    transformers: ModuleType, folder: Path, said: Document, device: Callable[[], torch.device]
) -> PreTrainedModel:
    known = _own_class(transformers, said["class"])
    bases = (known,) if known is not None else (transformers.PreTrainedModel, transformers.GenerationMixin)
    dtype = getattr(torch, said["dtype"])
    flags = {name: value for name, value in said["flags"].items() if name.startswith(_FLAGS)}
    members = {
        **({} if known is not None else flags),
        "device": property(lambda self: device()),
        "dtype": property(lambda self: dtype),
        "get_output_embeddings": lambda self: None,
        "can_generate": lambda self: True,
    }
    kind: type[PreTrainedModel] = type(said["class"], bases, members)
    shell: PreTrainedModel = object.__new__(kind)
    nn.Module.__init__(shell)
    shell.training = False
    shell.config = config_of(folder)
    shell.config._attn_implementation = said["attention"]  # by which generate makes masks, or leaves them out
    shell.generation_config = transformers.GenerationConfig.from_dict(_read(folder, _GENERATION))
    if known is None:
        shell.forward = _forward(said["parameters"])
    return shell


def _own_class(transformers: ModuleType, name: str) -> type | None:
    """The class of that name, if it is a model of transformers that generates."""
    found = getattr(transformers, name, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        return None
    return found if issubclass(found, transformers.GenerationMixin) else None


def config_of(folder: Path) -> PreTrainedConfig | None:
    """The configuration of a saved model; None of one that transformers doesn't have.

    Raises:
        ArgumentError: transformers is missing.
    """
    transformers = library(f"{folder}: its configuration")
    if not (folder / _CONFIG).exists():
        return None
    values = dict(_read(folder, _CONFIG))
    kind = values.pop("model_type", "")
    if kind in transformers.CONFIG_MAPPING:
        return transformers.AutoConfig.for_model(kind, **values)
    return transformers.PreTrainedConfig.from_dict(values)


def _forward(parameters: list[tuple[str, int]]) -> Callable[..., object]:
    """A function of that signature, which `generate` looks at."""

    def forward(*args: object, **kwargs: object) -> object:
        raise NotImplementedError("what is called is the loaded model's")

    kinds = {int(kind): kind for kind in (inspect.Parameter.POSITIONAL_ONLY, *_kinds())}
    found = [inspect.Parameter(name, kinds[kind]) for name, kind in parameters if name != "self"]
    forward.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    return forward


def _kinds() -> tuple[inspect._ParameterKind, ...]:
    p = inspect.Parameter
    return (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL, p.KEYWORD_ONLY, p.VAR_KEYWORD)


def _flag(model: nn.Module, name: str) -> bool | str | None:
    value = getattr(type(model), name, None) if name.startswith(_FLAGS) else None
    return value if isinstance(value, (bool, str)) else None


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    """As JSON has it; what isn't, such as a dtype, by its name."""
    plain: dict[str, object] = json.loads(json.dumps(dict(values), default=_name))
    return plain


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")


def _read(folder: Path, name: str) -> Document:
    found: Document = json.loads((folder / name).read_text("utf-8"))
    return found
