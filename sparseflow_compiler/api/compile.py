"""`sparseflow.compile`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from sparseflow.api.compiled import CompiledModel
from sparseflow.compiler.options import CompileOptions
from sparseflow.errors import ArgumentError
from sparseflow.execution.inner import Inner, Mode
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.support.arguments import Memory, PolicyMode, Prune, Tune, require_matches, require_patterns

if TYPE_CHECKING:
    from sparseflow.contextual import ActivationThresholds, Predictors


def compile(  # noqa: A001  # named like torch.compile
    model: nn.Module,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    *,
    prune: Prune | None = None,
    skip: Sequence[str] = (),
    skip_defaults: bool = True,
    policy: PolicyMode = "auto",
    memory: Memory = "auto",
    tune: Tune = "quick",
    inner: Inner = "auto",
    mode: Mode | None = None,
    inplace: bool = False,
    progress: bool | None = None,
    format: str | None = "2:4",
    contextual: Predictors | ActivationThresholds | None = None,
) -> CompiledModel:
    """Compile a model: layers with 2:4 weights run on sparse kernels wherever those were measured faster.

    Weights stay as they are unless `prune` is given. So prune first, by `sparseflow.prune`, or here.

    The model is captured on the first call, or at once when example inputs are given. It stays usable and
    unpruned unless `inplace` is set.

    Args:
        model: in evaluation mode, on the CPU (weights in float32, bfloat16 or float16) or on an NVIDIA GPU
            (bfloat16 or float16; others stay dense).
        args: example positional inputs.
        kwargs: example keyword inputs.
        prune: ``None`` changes no weight: those layers are sparse whose weights already are 2:4.
            ``"magnitude"`` keeps the two largest of every four weights of each layer that `sparseflow.prune`
            would prune, however it runs then; it costs quality, of which a `QualityWarning` tells and
            `compiled.report` layer by layer: `sparseflow.prune` beforehand costs less.
        skip: fnmatch patterns over layer names that stay dense, besides those of `DEFAULT_SKIP`.
        skip_defaults: ``False`` leaves `DEFAULT_SKIP` out.
        policy: ``"auto"`` runs every M by the path that was measured to be faster: a CPU is measured once
            (seconds, cached), a GPU's figures come from the tuned tables and from `tune`; ``"sparse"`` runs
            eligible layers sparse whatever was measured, and is not worth a quick tuning.
        memory: ``"auto"`` is never slower than dense at any measured M: a layer is packed alone where no M
            loses, has a dense copy of its weight beside the packed one where that wins 1.10× at some M, and
            stays dense otherwise, as it does where copies don't fit. ``"compressed"`` keeps no dense copy:
            where dense would be faster, the layer decompresses for the call or runs sparse all the same, and
            the report says how much that costs. ``"fast"`` keeps one wherever dense is faster for some M.
        tune: what to measure of shapes that no table has for this GPU, by a child process, once for the
            machine. ``"quick"``: the few candidates that a cost model ranks first, within seconds (20 for the
            four shapes of a Llama); what the time leaves is dense until the next compilation.
            ``"full"``: all candidates, also where quick tuning was before; minutes. ``"off"``: nothing:
            what no table has stays dense.
        inner: ``"eager"`` runs the lowered torch.fx graph as it is, ``"inductor"`` through ``torch.compile``;
            ``"auto"`` is inductor on a GPU and eager on a CPU. Inductor compiles the first sizes as they are,
            and once more for all others; `compiled.warmup` does it ahead.
        mode: as ``torch.compile`` has it. ``"reduce-overhead"`` and ``"max-autotune"`` run what comes a third
            time in the same sizes as a CUDA graph, such as decoding over a static cache, with or without
            inductor.
        inplace: release dense weights as they are packed; the original model can't be used afterwards.
        progress: progress bars on stderr; ``None``: only on a terminal.
        format: how sparse layers store and multiply their weights. ``"2:4"`` keeps the model's dtype.
            ``"2:4-fp8"`` runs the sparse layers of bfloat16 and float16 models in float8 e4m3, with a scale
            for each row of W and, found in each call, one for each row of x. It costs more quality, which
            `compiled.report` states layer by layer. It is fast on GPUs from sm_89 on only; a CPU computes the
            same slowly. A layer that can't have a format is ``"2:4"`` and says why. Formats of your own:
            `sparseflow.runtime.formats.register`.
            ``None`` makes no weight sparse: what `contextual` knows is all that is.
        contextual: predictors of `sparseflow.train_predictor`: MLPs read only the neurons that a token needs,
            for as few rows as that was measured to be faster (``policy="sparse"`` measures nothing and
            selects for up to 32 rows); for more they run by their 2:4 weights, if they have such and that is
            faster, or densely. Or thresholds of `sparseflow.calibrate_activations`: linear layers leave out
            the inputs that are smaller, and so the columns of their weights, for one token of each sequence
            and as few of them as that was measured to be faster; otherwise they run densely over the same
            weights, which are stored once, K outermost.

    Returns:
        A module called like `model`, with `report`, `mlir()`, `graph()`, `warmup()` and `generate()`.

    Raises:
        ArgumentError: an option has a wrong value, or `model` is not a module.
        InferenceOnlyError: the model is in training mode (raised on capture).
        CaptureError: torch.export can't capture the model (raised on capture).
        WeightError: a weight to be packed holds NaN or Inf (raised on capture).
    """
    require_uncompiled(model, "sf.compile(model)", parts=False)
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "sf.compile(model)",
            f"model must be a torch.nn.Module, not {type(model).__name__}",
            "wrap it in one",
        )
    require_patterns("compile", skip)
    require_matches("compile", skip, model)
    options = CompileOptions(  # what callers may get wrong is checked there
        prune=prune,
        skip=tuple(skip),
        skip_defaults=skip_defaults,
        policy=policy,
        memory=memory,
        tune=tune,
        inner=inner,
        mode=mode,
        inplace=inplace,
        progress=progress,
        format=format,
        contextual=contextual,
    )
    _require_arguments(args, kwargs)
    compiled = CompiledModel(model, options)
    if args is not None or kwargs is not None:
        compiled.capture(*(args or ()), **(kwargs or {}))
    return compiled


def _require_arguments(args: object, kwargs: object) -> None:
    if args is not None and not isinstance(args, (tuple, list)):
        keyword = isinstance(args, Mapping)
        raise ArgumentError(
            f"sf.compile(model, {type(args).__name__})",
            "args must be a tuple of the positional example inputs",
            "sf.compile(model, kwargs=inputs)" if keyword else "sf.compile(model, (x,))",
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        rule = f"kwargs must be a mapping of example inputs by name, not {type(kwargs).__name__}"
        raise ArgumentError("sf.compile(kwargs=…)", rule, 'kwargs={"input_ids": ids}')
