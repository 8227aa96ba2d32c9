"""`sparseflow.tune`: filling this GPU's table ahead of compiling."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.support.arguments import require_matches, require_one_of, require_patterns, with_defaults
from sparseflow.support.progress import progress_bars

if TYPE_CHECKING:
    from sparseflow.runtime.tuning import TuneResult
    from sparseflow.runtime.tuning.point import Effort

Shape = tuple[int, int]


def tune(
    target: nn.Module | Iterable[Shape],
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    ms: Sequence[int] | None = None,
    effort: Effort = "full",
    skip: Sequence[str] = (),
    skip_defaults: bool = True,
    device: torch.device | int | str = "cuda",
    folder: Path | None = None,
    force: bool = False,
    deadline: float | None = None,
    progress: bool | None = None,
) -> TuneResult:
    """Measure the kernels' candidates for the layers of a model, or for shapes, and save the times.

    Each candidate runs in a child process, because an algorithm can destroy the CUDA context, and is checked
    against fp32 before it is timed. Points that a table already has are not measured again, and every point
    is saved once measured, so that an interrupted tuning can be resumed.

    Args:
        target: a model, or layer shapes (N, K), the most important first. The layers of a model are those
            that `sparseflow.compile` would run, with q/k/v and gate/up merged; the model may be on the meta
            device.
        args: example inputs of the model. Without any, `dummy_inputs` of a transformers model are used; the
            layers of other models are taken one by one, unmerged.
        kwargs: example keyword inputs.
        dtypes: bfloat16, float16 or float8_e4m3fn; by default those of the model, or bfloat16 for shapes.
        ms: numbers of rows to measure; by default powers of two from 1 to 16384, for quick tuning thirteen of
            them.
        effort: ``"full"`` measures every candidate, also where the table has a quick measurement; ``"quick"``
            measures the few that a cost model ranks first, in fewer rounds, as `sparseflow.compile` does.
        skip: fnmatch patterns of layer names to leave out, in addition to `DEFAULT_SKIP`.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        device: the GPU to tune.
        folder: the folder of the table; by default the user's cache folder.
        force: measure points again that the table has.
        deadline: seconds after which no further point is begun.
        progress: whether to show progress bars on stderr; ``None`` shows them only on a terminal.

    Returns:
        The measured points, the skipped ones with reasons, the candidates that failed, and the table's path.

    Raises:
        ArgumentError: a wrong target, shape, dtype or M.
        NativeLibraryError: cuSPARSELt can't be used on the device.
        TuningError: the measuring process dies at once whatever is asked of it.
    """
    require_patterns("tune", skip)
    if isinstance(target, nn.Module):
        require_matches("tune", skip, target)
    require_one_of("tune", "effort", effort, ("quick", "full"))
    from sparseflow.runtime import gpu
    from sparseflow.runtime.tuning import GpuMachine, TunedTable
    from sparseflow.runtime.tuning.fill_gpu_table import tune as tune_shapes

    shapes = _shapes_by_dtype(target, args, kwargs, dtypes, with_defaults(skip, skip_defaults))
    where = torch.device(device) if not isinstance(device, int) else torch.device("cuda", device)
    gpu.require(where)
    table = TunedTable(GpuMachine.here(where), folder)
    run = functools.partial(tune_shapes, ms=ms, effort=effort, device=where, table=table, force=force)
    end = None if deadline is None else time.monotonic() + deadline
    with progress_bars(progress) as bars:
        results = [
            run(found, alike, deadline=end and max(0.0, end - time.monotonic()), progress=bars.stage("tune"))
            for alike, found in _groups(shapes)
        ]
    if not results:
        raise ArgumentError("sf.tune(target)", "has no linear layer that could be sparse")
    return functools.reduce(operator.add, results)


def _groups(shapes: Mapping[torch.dtype, list[Shape]]) -> list[tuple[list[torch.dtype], list[Shape]]]:
    """Group dtypes with the same shapes, so that a shape is tuned in all of them before the next."""
    groups: dict[tuple[Shape, ...], list[torch.dtype]] = {}
    for dtype, found in shapes.items():
        groups.setdefault(tuple(found), []).append(dtype)
    return [(alike, list(found)) for found, alike in groups.items()]


def _shapes_by_dtype(
    target: nn.Module | Iterable[Shape],
    args: Sequence[object] | None,
    kwargs: Mapping[str, object] | None,
    dtypes: Sequence[torch.dtype] | None,
    skip: Sequence[str],
) -> dict[torch.dtype, list[Shape]]:
    if not isinstance(target, nn.Module):
        shapes = [_shape(entry) for entry in target]
        return dict.fromkeys(dtypes or (torch.bfloat16,), shapes) if shapes else {}
    require_uncompiled(target, "sf.tune(model)")
    from sparseflow.compiler.shapes import linear_shapes

    found = linear_shapes(target, args, kwargs, skip)
    if dtypes is None:
        return found
    shapes = list(dict.fromkeys(shape for group in found.values() for shape in group))
    return dict.fromkeys(dtypes, shapes)


def _shape(entry: Iterable[int]) -> Shape:
    try:
        n, k = entry
        if int(n) == n > 0 and int(k) == k > 0:
            return int(n), int(k)
    except (TypeError, ValueError):
        pass
    raise ArgumentError("sf.tune(shapes)", f"a shape is (N, K), two positive integers, not {entry!r}")
