"""`sparseflow.compile`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from sparseflow.api.compiled import CompiledModel
from sparseflow.compiler.head_weight import head_weight
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
    lm_head: str | None = None,
    contextual: Predictors | ActivationThresholds | None = None,
) -> CompiledModel:
    """Compile a model so that layers with 2:4 weights run on sparse kernels where those were measured faster.

    Weights aren't changed unless `prune` is given; prune the model first with `sparseflow.prune`, or here.

    The model is captured on the first call, or at once if example inputs are given. The original model stays
    usable and unpruned unless `inplace` is set.

    Args:
        model: in evaluation mode, on the CPU (weights in float32, bfloat16 or float16) or on an NVIDIA GPU
            (bfloat16 or float16; layers in other dtypes stay dense).
        args: example positional inputs.
        kwargs: example keyword inputs.
        prune: ``None`` changes no weight; layers whose weights are already 2:4 become sparse. ``"magnitude"``
            keeps the two largest of every four weights in each layer that `sparseflow.prune` would prune,
            whether or not it then runs sparse. It costs more quality than `sparseflow.prune`: a
            `QualityWarning` says how much, and `compiled.report` states it for each layer.
        skip: fnmatch patterns of layer names that stay dense, in addition to `DEFAULT_SKIP`.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        policy: ``"auto"`` runs every M by the path that was measured to be faster. A CPU is measured once,
            which takes seconds and is cached; a GPU's figures come from the tuned tables and from `tune`.
            ``"sparse"`` runs eligible layers sparse whatever was measured, and starts no quick tuning.
        memory: ``"auto"`` is never slower than dense at a measured M. A layer is packed without a dense copy
            if that loses at no M; keeps a dense copy beside the packed weight if that gains 1.10× at some M
            and fits; and stays dense otherwise. ``"compressed"`` keeps no dense copy: where dense would be
            faster, the layer decompresses its weight in the call or runs sparse anyway, and the report says
            how much that costs. ``"fast"`` keeps a copy wherever dense is faster for some M.
        tune: what to measure of shapes that no table has for this GPU, in a child process, once for the
            machine. ``"quick"`` measures the few candidates that a cost model ranks first, within seconds (20
            for the four shapes of a Llama); shapes for which no time is left stay dense until the next
            compilation. ``"full"`` measures all candidates, also those that quick tuning left out; it takes
            minutes. ``"off"`` measures nothing: shapes that no table has stay dense.
        inner: ``"eager"`` runs the lowered torch.fx graph as it is, ``"inductor"`` through ``torch.compile``;
            ``"auto"`` is inductor on a GPU and eager on a CPU. Inductor compiles the first sizes statically,
            and once more for all others; `compiled.warmup` does it ahead.
        mode: ``None`` records a CUDA graph of a call that comes a third time with the same sizes if its
            second run showed that the device waits for the host. Such recordings hold at most 2 GiB or a
            sixteenth of the GPU's memory for all models of the process, results are the caller's to keep,
            and `compiled.report` says what was recorded and why. The others are those of ``torch.compile``:
            ``"default"`` never records; ``"reduce-overhead"`` and ``"max-autotune"`` record every call that
            comes a third time, such as decoding over a static cache, with or without inductor.
        inplace: release dense weights as they are packed; the original model can't be used afterwards.
        progress: whether to show progress bars on stderr; ``None`` shows them only on a terminal.
        format: how sparse layers store and multiply their weights. ``"2:4"`` keeps the model's dtype.
            ``"2:4-fp8"`` runs sparse layers of bfloat16 and float16 models in float8 e4m3, with a scale for
            each row of W and, computed in each call, for each row of x. It costs more quality, which
            `compiled.report` states for each layer, and is fast only on GPUs from sm_89 on; a CPU computes
            the same slowly. A layer that can't have the format is ``"2:4"``, and the report says why.
            With thresholds ``"int8"``, or on a GPU ``"fp8"``, is how layers that leave out inputs store
            their weights, with a scale for each out feature; the other layers then stay as they are.
            `sparseflow.runtime.formats.register` adds formats. ``None`` makes no weight sparse, only what
            `contextual` names.
        lm_head: how to store the head of a language model, which `DEFAULT_SKIP` leaves dense: decoding reads
            all of it for each token. ``"fp8"`` and ``"int8"`` keep it dense in 8 bits with a scale for each
            row; x is not rounded. They are made for up to 8 rows on GPUs, by inductor, and int8 for those of
            bfloat16 models on CPUs; for more rows, and elsewhere, each call converts the weight first.
            ``"2:4"`` and the other formats of 2:4 weights prune it by magnitude unless it is 2:4 already,
            whatever `prune` says. An embedding tied to it keeps its weight: the head's is then a copy.
        contextual: predictors from `sparseflow.train_predictor`. MLPs then read only the neurons that a token
            needs, for as few rows as that was measured to be faster (``policy="sparse"`` measures nothing and
            selects for up to 32 rows). For more rows they run by their 2:4 weights if they have such and that
            is faster, or densely. With thresholds from `sparseflow.calibrate_activations`, linear layers
            leave out inputs of smaller magnitude, and the columns of their weights with them, for one token
            of each sequence and for as few rows as that was measured to be faster. Otherwise they run densely
            over the same weight, which is stored once, K outermost.

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
    options = CompileOptions(  # which checks the options
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
        lm_head=lm_head,
        contextual=contextual,
    )
    if lm_head is not None:
        head_weight(model)
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
