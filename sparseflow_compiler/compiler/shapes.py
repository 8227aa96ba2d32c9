"""Find the shapes of the linear layers that `sparseflow.compile` would make, without compiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.utils import _pytree as pytree

from sparseflow.runtime.calling.inference import device_of
from sparseflow.support.extras import require_compiler

Shape = tuple[int, int]


def linear_shapes(
    model: nn.Module, args: Sequence[object] | None, kwargs: Mapping[str, object] | None, skip: Sequence[str]
) -> dict[torch.dtype, list[Shape]]:
    """Return the distinct (N, K) of the layers that may become sparse, by dtype.

    Args:
        model: may be on the meta device.
        args: example inputs. Without any, the `dummy_inputs` of a transformers model are used; other models
            are read module by module, without merged layers.
        kwargs: example keyword inputs.
        skip: fnmatch patterns of layer names to leave out.
    """
    if args is None and kwargs is None:
        kwargs = _dummy_inputs(model)
        if kwargs is None:
            return _modules(model, skip)
    return _captured(model, tuple(args or ()), kwargs or {}, tuple(skip))


def _dummy_inputs(model: nn.Module) -> Mapping[str, object] | None:
    inputs = getattr(model, "dummy_inputs", None)
    device = device_of(model)
    move = lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf  # noqa: E731
    return pytree.tree_map(move, inputs) if isinstance(inputs, Mapping) else None


def _modules(model: nn.Module, skip: Sequence[str]) -> dict[torch.dtype, list[Shape]]:
    found: dict[torch.dtype, list[Shape]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not any(fnmatchcase(name, pattern) for pattern in skip):
            shapes = found.setdefault(module.weight.dtype, [])
            shape = (module.out_features, module.in_features)
            shapes += [] if shape in shapes else [shape]
    return found


def _captured(
    model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object], skip: tuple[str, ...]
) -> dict[torch.dtype, list[Shape]]:
    require_compiler(type(model).__name__)
    from torch_mlir import ir

    from sparseflow import dialect
    from sparseflow.compiler.measured_policies import sparse_shapes
    from sparseflow.frontend import capture, import_program
    from sparseflow.passes import run_pipeline
    from sparseflow.passes.phases import PipelineOptions, pipeline
    from sparseflow.runtime.formats.tensors import TORCH_DTYPES

    context = ir.Context()
    dialect.load(context)
    imported = import_program(capture(model, args, kwargs), context)
    run_pipeline(imported.module, pipeline("merged", PipelineOptions(skip=skip)))
    shapes = sparse_shapes(imported.module, lambda name: imported.weights[name].device)
    found: dict[torch.dtype, list[Shape]] = {}
    for (_, dtype, _), group in shapes.items():
        known = found.setdefault(TORCH_DTYPES[dtype], [])
        known += [shape for shape in dict.fromkeys(group) if shape not in known]
    return found
