"""Capture an nn.Module with example inputs as one functional ATen program, by torch.export."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch._dynamo import config
from torch.export import ExportedProgram
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental import _config

from sparseflow.errors import InferenceOnlyError
from sparseflow.frontend.dynamic_shapes import Shapes, leaf_shapes
from sparseflow.frontend.exclusive import tracing
from sparseflow.frontend.fixed_sizes import write_fixed_sizes
from sparseflow.frontend.flat_module import FlatModule
from sparseflow.frontend.functional import functional
from sparseflow.frontend.gradient_reads import GradientReads
from sparseflow.frontend.hooks import no_hooks_left
from sparseflow.frontend.program import CapturedProgram, describe
from sparseflow.frontend.quiet_torch import quiet
from sparseflow.frontend.refusals import capture_error, runs
from sparseflow.frontend.sharing import apart
from sparseflow.frontend.slice_sizes import drop_slice_assertions
from sparseflow.frontend.state.watch import Watch
from sparseflow.frontend.trace_notes import fewer_notes
from sparseflow.runtime.calling.ambient import autocast_is_on
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.carried import Carried, Place
from sparseflow.runtime.calling.gradients import GradientMode
from sparseflow.runtime.calling.structure import COUNTERS
from sparseflow.support.training_mode import trained_part


def capture(
    model: nn.Module,
    args: Sequence[object],
    kwargs: Mapping[str, object] | None = None,
    *,
    dynamic_shapes: Shapes = None,
    carried: Carried | None = None,
) -> CapturedProgram:
    """Capture a model as one graph that holds for other batch sizes and sequence lengths too.

    Args:
        model: a model in eval mode; it is not modified.
        args: positional example inputs: tensors, constants, and containers of them (dict, dataclass, cache).
        kwargs: example inputs by keyword.
        dynamic_shapes: which dimensions may vary, see `leaf_shapes`; by default all, as far as the model
            lets them. Inner dimensions of size 1 in the example, and those of size 0, are fixed.
        carried: attributes that forward changes, which the program takes and returns; those that this capture
            finds are added.

    Raises:
        InferenceOnlyError: the model is in training mode.
        CaptureError: torch.export can't capture the model; the message says why, where and what to do.
    """
    _require_inference(model)
    gradients = GradientReads(GradientMode.now())
    try:
        with tracing(model), no_hooks_left(), quiet():
            carried = Carried() if carried is None else carried
            while True:
                traced = _trace_as_asked(model, args, kwargs or {}, dynamic_shapes, carried.places, gradients)
                if traced is None:
                    continue
                program, found = traced
                if not found:
                    return program
                carried.add(found)
    except Exception as error:
        does_run = functools.partial(runs, model, args, kwargs or {})
        raise capture_error(model, error, does_run, records=gradients.records) from error


def _trace_as_asked(
    model: nn.Module,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    dynamic_shapes: Shapes,
    places: Sequence[Place],
    gradients: GradientReads,
) -> tuple[CapturedProgram, list[Place]] | None:
    """Trace; return None if the model asked for gradients and has to be traced with them."""
    try:
        with gradients.recording():
            traced = _trace(model, args, kwargs, dynamic_shapes, places, gradients)
    except Exception:
        if gradients.needs_another_trace():  # it may have failed of the wrong answer
            return None
        raise
    return None if gradients.needs_another_trace() else traced


def _trace(
    model: nn.Module,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    dynamic_shapes: Shapes,
    places: Sequence[Place],
    gradients: GradientReads,
) -> tuple[CapturedProgram, list[Place]]:
    """Trace a copy of the model; return the program and further attributes that it has to carry."""
    watch = Watch(model, places)
    signature = CallSignature.of(watch.model.forward)
    state = Carried(places).read() if places else None
    flat = FlatModule(watch, signature.flatten(args, kwargs, state), gradients)
    exported = _export(flat, dynamic_shapes)
    if not flat.counters <= COUNTERS:
        COUNTERS.update(flat.counters)
        call = signature.flatten(args, kwargs, state)
        if call.structure != flat.call.structure:
            flat = FlatModule(watch, call, gradients)
            exported = _export(flat, dynamic_shapes)
    known = {(id(place.module), place.name) for place in places}
    found = [place for place in watch.found if (id(place.module), place.name) not in known]
    return describe(exported, signature, flat, gradients.mode), found


def _export(flat: FlatModule, dynamic_shapes: Shapes) -> ExportedProgram:
    """Export, if possible without assuming sizes above 1, so that batch 1 needs no extra program."""

    def export() -> ExportedProgram:
        shapes = (leaf_shapes(flat.call, dynamic_shapes),) if flat.call.leaves else None
        leaves = tuple(apart(flat.call.leaves, flat.model))
        # torch's passes write the Python code of every intermediate graph; nothing here runs it. And it keeps
        # what an operator gives for fake tensors, which takes longer than computing it: what is repeated is
        # known by repeated_operators, except under autocast.
        cached = config.patch(fake_tensor_cache_enabled=autocast_is_on())
        with _use_lazy_graph_module(True), fewer_notes(), cached:
            exported = torch.export.export(flat, leaves, dynamic_shapes=shapes, strict=False)
        program = functional(exported)
        write_fixed_sizes(program.graph)
        drop_slice_assertions(program.graph)
        program.example_inputs = None  # the program would keep them alive
        return program

    try:
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return export()
    except Exception:  # torch.export fails in many ways; the second attempt raises what matters
        return export()


def _require_inference(model: nn.Module) -> None:
    if (name := trained_part(model)) is not None:
        raise InferenceOnlyError(
            f"{type(model).__name__}{'.' if name else ''}{name}",
            "the module is in training mode; SparseFlow compiles for inference only",
            "call model.eval() first",
        )
