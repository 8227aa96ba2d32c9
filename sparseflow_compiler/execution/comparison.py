"""A compiled model beside its dense one, on the calls that a user warms up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparseflow.errors import SlowerWarning
from sparseflow.execution.generation import Generator
from sparseflow.execution.inner import SIZES, Execution, chosen_inner
from sparseflow.execution.opponent import opponent
from sparseflow.runtime.dispatch.policy import TOLERANCE
from sparseflow.runtime.timing import interleaved
from sparseflow.support.user_warnings import warn

if TYPE_CHECKING:
    from sparseflow.execution.warmup import Call, Side

SECONDS = 1.0
"""About how long the runs of one call take, both sides together, unless `LEAST` turns take longer."""

LEAST, MOST = 3, 30
"""Turns. The fastest of each side counts: other processes only ever add time."""


@dataclass(frozen=True)
class Compared:
    """What one call took.

    Attributes:
        call: which, such as ``batch 1 × seq 128``.
        dense_ms: of the model as it was, run as the compiled one is: eager or under torch.compile.
        compiled_ms: of the compiled model's programs.
        runs_dense: whether the dense model serves such calls since.
    """

    call: str
    dense_ms: float
    compiled_ms: float
    runs_dense: bool = False

    @property
    def speedup(self) -> float:
        """Of the compiled model over the dense one."""
        return self.dense_ms / self.compiled_ms

    @property
    def loses(self) -> bool:
        """Whether compiled is slower by more than measuring again may give."""
        return self.speedup * TOLERANCE < 1.0

    def to_dict(self) -> dict[str, object]:
        """Return the figures for a report."""
        return asdict(self)


class DenseModel:
    """The model as it was before it was compiled, run the way its compiled form is.

    Args:
        model: the model.
        forward: its own.
        device: where it is.
        execution: of the compiled model.
    """

    def __init__(
        self, model: nn.Module, forward: Callable[..., object], device: torch.device, execution: Execution
    ) -> None:
        self._execution, self._device = execution, device
        self._run = opponent(model, device, inner=execution.inner, mode=execution.mode)[1]
        run = self._runner(forward)
        self._generator = Generator(model, lambda _, function: self._runner(function), run, None, execution)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run the model."""
        return self._run(*args, **kwargs)

    def generate(self, *args: object, **kwargs: object) -> Any:
        """Run its `generate`, over kept static caches as the compiled model does."""
        return self._generator.generate(*args, **kwargs)

    def _runner(self, function: Callable[..., object]) -> Callable[..., object]:
        """Return what runs a part of it; sizes that differ become symbolic, as in compiled programs."""
        if chosen_inner(self._execution.inner, self._device) != "inductor":
            return function
        compiled: Callable[..., object] = torch.compile(function, mode=self._execution.mode)
        return compiled


def failure(calls: Iterable[Call], dense: Side) -> str:
    """Make calls of the dense model, which compiles it, and return why it fails; empty if it doesn't.

    Whether torch.compile can run the user's model, and memory holds it, is no reason to refuse a warm-up.
    """
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=SIZES):
        for call in calls:
            try:
                call.run(dense)
            except Exception as error:  # whatever torch.compile and the model raise
                reason = str(error).strip().partition("\n")[0]
                return f"the dense model fails for {call.title}: {type(error).__name__}: {reason:.200}"
    return ""


def compare(calls: Iterable[Call], compiled: Side, dense: Side, device: torch.device) -> list[Compared]:
    """Time calls of a compiled model and of its dense one in turns.

    Args:
        calls: which.
        compiled: the compiled model, warm.
        dense: the dense one, warm too.
        device: where they are.
    """

    def timed(call: Call, side: Side) -> Callable[[int], None]:
        def run(_: int) -> None:
            call.run(side)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    found = []
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=SIZES):
        for call in calls:
            sides = [timed(call, dense), timed(call, compiled)]
            times = interleaved(sides, seconds=SECONDS, least=LEAST, most=MOST)
            dense_ms, compiled_ms = (1e3 * min(side) for side in times)
            found.append(Compared(call.title, dense_ms, compiled_ms))
    return found


def warn_of_losses(model: str, found: Sequence[Compared], device: torch.device) -> None:
    """Say, once for all calls, where the compiled model is slower, and what to do."""
    losing = sorted((one for one in found if one.loses and not one.runs_dense), key=lambda one: one.speedup)
    if not losing:
        return
    figures = [
        f"{one.call}: dense {one.dense_ms:.3g} ms, compiled {one.compiled_ms:.3g} ms, {one.speedup:.2f}×"
        for one in losing[:3]
    ]
    more = f" and {len(losing) - 3} more" if len(losing) > 3 else ""
    graphs = ", or compile with mode='reduce-overhead', which takes the host's time away from every call"
    warn(
        f"compiled {model} is slower than dense for {'; '.join(figures)}{more}. Call the model itself for "
        f"these sizes{graphs if device.type == 'cuda' else ''}; the report says which layers gain there",
        SlowerWarning,
    )
