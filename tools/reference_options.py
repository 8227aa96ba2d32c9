"""The page of options, from signatures, dataclasses and what their docstrings say of each option."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from docstrings import entries, summary, table

import sparseflow as sf
from sparseflow.integrations.transformers import SparseFlowConfig
from sparseflow.integrations.vllm.serving_options import ServingOptions

_HEAD = """# Options

<!-- Made from signatures and docstrings by `make docs`; `make check` compares. -->

The keyword options of the functions that have most of them, with their defaults. [API](api.md) has the
rest of each function. `torch.compile(model, backend="sparseflow", options={…})` takes those of `sf.compile`
but `inplace`."""

_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "sf.compile": sf.compile,
    "sf.prune": sf.prune,
    "sf.calibrate_activations": sf.calibrate_activations,
    "sf.train_predictor": sf.train_predictor,
    "sf.profile": sf.profile,
    "sf.tune": sf.tune,
    "sf.load": sf.load,
    "CompiledModel.warmup": sf.CompiledModel.warmup,
    "SparseFlowConfig": SparseFlowConfig,
}


def page() -> str:
    """Return the contents of docs/reference/options.md."""
    parts = [_HEAD]
    for name, function in _FUNCTIONS.items():
        parts += _section(name, function)
    return "\n\n".join([*parts, *_serving()]) + "\n"


def _section(name: str, function: Callable[..., Any]) -> Iterator[str]:
    docstring = function.__doc__ or ""
    said = entries(docstring, "Args")
    said |= entries(docstring, "Attributes")
    parameters = inspect.signature(function).parameters.values()
    rows = [
        [f"`{each.name}`", _default(each.default), said.get(each.name, "")]
        for each in parameters
        if each.default is not inspect.Parameter.empty and each.name not in {"args", "kwargs"}
    ]
    yield f"## `{name}`"
    yield summary(docstring)
    yield table(["option", "default", ""], rows)


def _serving() -> Iterator[str]:
    said = entries(ServingOptions.__doc__ or "", "Attributes")
    rows = [
        [f"`{field.name}`", _default(field.default), said.get(field.name, "")]
        for field in dataclasses.fields(ServingOptions)
    ]
    yield "## vLLM"
    yield (
        "In `--additional-config '{\"sparseflow\": {…}}'`, which goes before the `quantization_config` of "
        "config.json ([Serving](../guides/serving.md))."
    )
    yield table(["option", "default", ""], rows)


def _default(value: object) -> str:
    return f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`"
