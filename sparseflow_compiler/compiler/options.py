"""The options of `sparseflow.compile`, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from sparseflow.errors import ArgumentError
from sparseflow.execution.inner import Execution, Inner, Mode
from sparseflow.runtime.formats import COLUMNS, find, names, sparse_names
from sparseflow.runtime.pattern import Pattern
from sparseflow.support.arguments import (
    MEMORY_MODES,
    Memory,
    PolicyMode,
    Prune,
    Tune,
    require_one_of,
    require_patterns,
    with_defaults,
)

if TYPE_CHECKING:
    from sparseflow.contextual import ActivationThresholds, Predictors


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """How a model is compiled.

    Attributes:
        prune: how weights that are not 2:4 yet become so; ``None`` leaves all weights as they are.
        skip: fnmatch patterns over layer names that stay dense.
        skip_defaults: whether those of `DEFAULT_SKIP` stay dense too.
        policy: ``"auto"`` runs each layer by the faster measured path for every M and leaves a layer
            dense that never wins; ``"sparse"`` runs every eligible layer sparse without measuring.
        memory: ``"auto"`` keeps a dense copy of a sparse layer's weight where some M would lose without, if
            it buys enough, ``"compressed"`` none, ``"fast"`` one wherever dense is faster for some M.
        tune: what is measured of the GPU that no table has yet; CPUs are always measured.
        inner: what runs the lowered graph: torch.fx as it is, or ``torch.compile``'s inductor over it;
            ``"auto"`` is inductor on a GPU.
        mode: that of ``torch.compile``; CUDA graphs work without inductor too. ``None`` records them where
            that was measured to pay, ``"default"`` never.
        inplace: release the model's dense weights as they are packed.
        progress: show progress bars; ``None``: only on a terminal.
        format: how sparse layers store and multiply their weights, where they can; ``None``: none is sparse.
            With thresholds also ``"int8"`` or ``"fp8"``: how the layers that leave out inputs store theirs.
        lm_head: how the model's head is stored; ``None``: as any layer that `skipped` names or doesn't.
        contextual: what selects the neurons that MLPs read, or the inputs that layers leave out; ``None``:
            they read all.
    """

    prune: Prune | None = None
    skip: tuple[str, ...] = ()
    skip_defaults: bool = True
    policy: PolicyMode = "auto"
    memory: Memory = "auto"
    tune: Tune = "quick"
    inner: Inner = "auto"
    mode: Mode | None = None
    inplace: bool = False
    progress: bool | None = None
    format: str | None = "2:4"
    lm_head: str | None = None
    contextual: Predictors | ActivationThresholds | None = None

    def __post_init__(self) -> None:
        require_one_of("compile", "prune", self.prune, (*get_args(Prune), None))
        require_one_of("compile", "policy", self.policy, get_args(PolicyMode))
        require_one_of("compile", "memory", self.memory, MEMORY_MODES)
        require_one_of("compile", "tune", self.tune, get_args(Tune))
        require_one_of("compile", "inner", self.inner, get_args(Inner))
        columns = COLUMNS if self.thresholds is not None else ()
        require_one_of("compile", "format", self.format, (*sparse_names(), *columns, None))
        require_one_of("compile", "lm_head", self.lm_head, (*names(), None))
        self._require_something_sparse()
        require_one_of("compile", "mode", self.mode, (*get_args(Mode), None))
        if self.inner == "eager" and str(self.mode).startswith("max-autotune"):
            raise ArgumentError(
                f"sf.compile(inner='eager', mode={self.mode!r})",
                "only inductor tunes kernels",
                "leave inner out, or take mode='reduce-overhead'",
            )
        require_patterns("compile", self.skip)
        require_one_of("compile", "skip_defaults", self.skip_defaults, (True, False))

    @property
    def execution(self) -> Execution:
        """How the program runs."""
        return Execution(self.inner, self.mode)

    @property
    def predictors(self) -> Predictors | None:
        """What selects neurons; None if nothing does."""
        from sparseflow.contextual import Predictors

        return self.contextual if isinstance(self.contextual, Predictors) else None

    @property
    def thresholds(self) -> ActivationThresholds | None:
        """Below which inputs are left out; None if all are read."""
        from sparseflow.contextual import ActivationThresholds

        return self.contextual if isinstance(self.contextual, ActivationThresholds) else None

    @property
    def sparse_format(self) -> str | None:
        """How sparse weights are stored; None: none is sparse."""
        return None if self.format in COLUMNS else self.format

    @property
    def column_format(self) -> str:
        """How layers that leave out inputs store their weights; empty: as they are."""
        return self.format if self.format is not None and self.format in COLUMNS else ""

    @property
    def pattern(self) -> Pattern:
        """What `prune` prunes to."""
        return Pattern.of(find(self.sparse_format or "2:4").pattern)

    @property
    def chooses_by_speed(self) -> bool:
        """Whether a compiled model computes what the dense one does, and only times say what runs."""
        exact = self.format is not None and self.format not in COLUMNS and not find(self.format).lossy
        unchanged = self.prune is None and self.lm_head is None and self.contextual is None
        return exact and unchanged and (self.policy, self.memory, self.mode) == ("auto", "auto", None)

    @property
    def skipped(self) -> tuple[str, ...]:
        """All patterns of layers that stay dense."""
        return with_defaults(self.skip, self.skip_defaults)

    def _require_something_sparse(self) -> None:
        if self.contextual is None:
            if self.format is None and self.lm_head is None:
                raise ArgumentError(
                    "sf.compile(format=None)",
                    "without a weight format, predictors and thresholds nothing is left to be sparse",
                    "leave format out, or pass contextual=sf.calibrate_activations(model)",
                )
            return
        if self.predictors is None and self.thresholds is None:
            raise ArgumentError(
                f"sf.compile(contextual={type(self.contextual).__name__})",
                "contextual must be what sf.train_predictor or sf.calibrate_activations returns",
                "or what Predictors.load or ActivationThresholds.load reads",
            )
        if self.thresholds is not None and self.prune is not None:
            raise ArgumentError(
                f"sf.compile(prune={self.prune!r}, contextual=thresholds)",
                "layers with a threshold read whole weights: pruning them would cost quality for nothing",
                "leave prune out, or prune the other layers by sf.prune beforehand",
            )
