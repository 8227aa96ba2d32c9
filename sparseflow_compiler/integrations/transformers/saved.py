"""Save and load what `generate` needs of a transformers model: configuration, tokenizer, class."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.argument_names import generates
from sparseflow.integrations.transformers.encoders import (
    add_encoder_shell,
    encoder_document,
    function_with,
    parameters_of,
)
from sparseflow.integrations.transformers.plain_calls import OPTIONS
from sparseflow.integrations.transformers.static_caches import why_not_whole
from sparseflow.integrations.transformers.versions import require_transformers
from sparseflow.runtime.artifact.loading import malformed_as_error
from sparseflow.support.documents import Document

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SHELL = "generation.json"
"""The file of an artifact with the model's class and the attributes that `generate` reads."""

_CONFIG, _GENERATION = "config.json", "generation_config.json"
_FLAGS = ("_supports", "_is_stateful", "_can_compile", "main_input_name", "base_model_prefix")
_HARMLESS = frozenset({*OPTIONS, "bos_token_id", "transformers_version", "_from_model_config"})
"""What a generation configuration may set without `generate` reading calls otherwise than `read_plain`."""
_NOT_SAVED = ("quantization_config", "_name_or_path")


def documents(model: nn.Module) -> dict[str, object]:
    """Return the JSON files about a transformers model that an artifact holds, by name; none for others."""
    config = getattr(model, "config", None)
    if not callable(getattr(config, "to_dict", None)):
        return {}
    values = {name: value for name, value in _plain(config.to_dict()).items() if name not in _NOT_SAVED}  # type: ignore[union-attr]
    if not generates(model):
        return {_CONFIG: values}
    generation = model.generation_config
    shell = {
        "class": type(model).__name__,
        "attention": getattr(config, "_attn_implementation", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "encoder": encoder_document(model),
        "flags": {name: value for name in dir(type(model)) if (value := _flag(model, name)) is not None},
        "parameters": parameters_of(model.forward),
        "plain": _plain(_plain_generation(cast("PreTrainedModel", model))),
    }
    return {_CONFIG: values, _GENERATION: _plain(generation.to_dict()), SHELL: shell}  # type: ignore[union-attr,operator]


def plain_generation(folder: Path) -> Document:
    """Return how a saved model's `generate` reads plain calls, as `_plain_generation` wrote it."""
    with malformed_as_error(folder):
        plain: Document = _read(folder, SHELL)["plain"]
        return plain


def _plain_generation(model: PreTrainedModel) -> dict[str, object]:
    """Return how the model's `generate` reads a call that passes tokens and the usual options.

    Returns:
        ``"refused"``: why only transformers can read any call, empty if `read_plain` can too; and
        ``"defaults"``: the options where a call doesn't give them.
    """
    transformers = require_transformers(f"{type(model).__name__}.generate")
    usual = transformers.GenerationConfig()
    known = usual.to_dict() | getattr(usual, "_get_default_generation_params", dict)()
    set_ = {n: v for n, v in model.generation_config.to_dict().items() if v is not None}
    refused = why_not_whole(model)
    if not _is_usual_generate(model, transformers.GenerationMixin):
        refused = f"{type(model).__name__} generates in a way of its own"
    others = [n for n, v in set_.items() if n not in _HARMLESS and v and v != known.get(n)]
    if others or set_.get("use_cache") is False:
        refused = f"the model's generation configuration sets {(*others, 'use_cache')[0]}"
    return {"refused": refused, "defaults": {name: set_.get(name, known.get(name)) for name in OPTIONS}}


def _is_usual_generate(model: nn.Module, mixin: type) -> bool:
    """Return whether a model generates by what transformers' mixin has, and by nothing else."""
    names = [name for name, value in vars(mixin).items() if not name.startswith("__") and callable(value)]
    own = any(name in vars(model) for name in names)
    static = inspect.getattr_static
    return not own and all(static(type(model), name, None) is vars(mixin)[name] for name in names)


def tokenizer_files(tokenizer: object) -> dict[str, bytes]:
    """Return the files of a tokenizer, by name.

    Raises:
        ArgumentError: it isn't a transformers tokenizer.
    """
    if tokenizer is None:
        return {}
    if not hasattr(tokenizer, "save_pretrained"):
        rule = f"tokenizer must be a transformers tokenizer, not {type(tokenizer).__name__}"
        raise ArgumentError("compiled.save(tokenizer=…)", rule, "load one: AutoTokenizer.from_pretrained(…)")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = [path for path in Path(folder).iterdir() if path.is_file() and path.name != _CONFIG]
        return {path.name: path.read_bytes() for path in files}


def shell_of(folder: Path, device: Callable[[], torch.device]) -> PreTrainedModel:
    """Make a module without weights that has every attribute of the saved model that `generate` reads.

    It is of the model's own class if transformers has it, else of one with the default `generate`.

    Args:
        folder: of the artifact, whose files were verified.
        device: returns the device of the loaded model.

    Raises:
        ArtifactError: what was saved is malformed.
        MissingDependencyError: transformers is missing.
    """
    transformers = require_transformers(f"{folder}: generate")
    with malformed_as_error(folder):
        return _shell(transformers, folder, _read(folder, SHELL), device)


def _shell(
    transformers: ModuleType, folder: Path, saved: Document, device: Callable[[], torch.device]
) -> PreTrainedModel:
    known = _own_class(transformers, saved["class"])
    bases = (known,) if known is not None else (transformers.PreTrainedModel, transformers.GenerationMixin)
    dtype = getattr(torch, saved["dtype"])
    flags = {name: value for name, value in saved["flags"].items() if name.startswith(_FLAGS)}
    members = {
        **({} if known is not None else flags),
        "device": property(lambda self: device()),
        "dtype": property(lambda self: dtype),
        "get_output_embeddings": lambda self: None,
        "can_generate": lambda self: True,
    }
    if saved["encoder"] is not None:
        path = saved["encoder"]["path"]
        members["get_encoder"] = lambda self, modality=None: self.get_submodule(path)
    kind: type[PreTrainedModel] = type(saved["class"], bases, members)
    shell: PreTrainedModel = object.__new__(kind)
    nn.Module.__init__(shell)
    shell.training = False
    shell.config = config_of(folder)
    shell.config._attn_implementation = saved["attention"]  # decides whether generate makes masks
    shell.generation_config = transformers.GenerationConfig.from_dict(_read(folder, _GENERATION))
    if known is None:
        shell.forward = function_with(saved["parameters"])
    if saved["encoder"] is not None:
        add_encoder_shell(shell, saved["encoder"])
    return shell


def _own_class(transformers: ModuleType, name: str) -> type | None:
    """Return the transformers class of that name if it is a model that can generate, else None."""
    found = getattr(transformers, name, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        return None
    return found if issubclass(found, transformers.GenerationMixin) else None


def config_of(folder: Path) -> PreTrainedConfig | None:
    """Read the configuration of a saved model; None if it isn't a transformers model.

    Raises:
        MissingDependencyError: transformers is missing.
    """
    transformers = require_transformers(f"{folder}: its configuration")
    if not (folder / _CONFIG).exists():
        return None
    values = dict(_read(folder, _CONFIG))
    kind = values.pop("model_type", "")
    if kind in transformers.CONFIG_MAPPING:
        return transformers.AutoConfig.for_model(kind, **values)
    return transformers.PreTrainedConfig.from_dict(values)


def _flag(model: nn.Module, name: str) -> bool | str | None:
    value = getattr(type(model), name, None) if name.startswith(_FLAGS) else None
    return value if isinstance(value, (bool, str)) else None


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    """Convert values to JSON types; others, such as a dtype, to their name."""
    plain: dict[str, object] = json.loads(json.dumps(dict(values), default=_name))
    return plain


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")


def _read(folder: Path, name: str) -> Document:
    found: Document = json.loads((folder / name).read_text("utf-8"))
    return found
