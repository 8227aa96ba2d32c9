"""The options of `sparseflow.compile`, checked once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, get_args

from sparseflow.errors import ArgumentError
from sparseflow.runtime.backends import MEMORY_MODES, Memory

if TYPE_CHECKING:
    from torch import nn

    from sparseflow.contextual import Predictors

Prune = Literal["magnitude"]
PolicyMode = Literal["auto", "sparse"]
Inner = Literal["auto", "eager", "inductor"]
Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Quantize = Literal["fp8"]
Sparsity = Literal["2:4", "contextual", "contextual+2:4"]

_ADAPTERS = (
    "*lora_*",  # LoRA and what derives from it: GraLoRA, X-LoRA, AdaLoRA, supertuning
    *("*.hada_*", "*.hira_*", "*.lily_*", "*.miss_block.*", "*.peanut_*", "*.shadow_*"),
    "prompt_encoder.*",
)
"""The weights of PEFT's adapters that are multiplied by as those of linear layers are; its others aren't."""

DEFAULT_SKIP: tuple[str, ...] = ("lm_head", "*.lm_head", "*embed*", *_ADAPTERS)
"""Layers that stay dense unless ``skip_defaults=False``.

Pruning heads and embeddings costs most quality; adapters are small, and trained to be just what they are.
The layer under an adapter, such as ``q_proj.base_layer``, is pruned like any other.
"""


@dataclass(frozen=True)
class CompileOptions:
    """How a model is compiled.

    Attributes:
        prune: how weights that are not 2:4 yet become so; ``None`` leaves all weights as they are.
        skip: fnmatch patterns over layer names that stay dense.
        skip_defaults: whether those of `DEFAULT_SKIP` stay dense too.
        policy: ``"auto"`` runs each layer by the faster measured path for every M and leaves a layer
            dense that never wins; ``"sparse"`` runs every eligible layer sparse without measuring.
        memory: ``"compressed"`` keeps no dense copy of a sparse layer's weight, ``"fast"`` one wherever dense
            is faster for some M.
        tune: measure what no table has yet for the GPU; CPUs are always measured.
        inner: what runs the lowered graph: torch.fx as it is, or ``torch.compile``'s inductor over it;
            ``"auto"`` is inductor on a GPU.
        mode: that of ``torch.compile``; CUDA graphs work without inductor too.
        inplace: release the model's dense weights as they are packed.
        progress: show progress bars; ``None``: only on a terminal.
        quantize: what sparse layers multiply in; ``None`` keeps the model's dtype.
        sparsity: what becomes sparse: weights, the neurons of MLPs, or both.
        predictor: what selects neurons.
    """

    prune: Prune | None = None
    skip: tuple[str, ...] = ()
    skip_defaults: bool = True
    policy: PolicyMode = "auto"
    memory: Memory = "compressed"
    tune: bool = False
    inner: Inner = "auto"
    mode: Mode | None = None
    inplace: bool = False
    progress: bool | None = None
    quantize: Quantize | None = None
    sparsity: Sparsity = "2:4"
    predictor: Predictors | None = None

    def __post_init__(self) -> None:
        require_one_of("compile", "prune", self.prune, (*get_args(Prune), None))
        require_one_of("compile", "policy", self.policy, get_args(PolicyMode))
        require_one_of("compile", "memory", self.memory, MEMORY_MODES)
        require_one_of("compile", "tune", self.tune, (True, False))
        require_one_of("compile", "inner", self.inner, get_args(Inner))
        require_one_of("compile", "quantize", self.quantize, (*get_args(Quantize), None))
        require_one_of("compile", "sparsity", self.sparsity, get_args(Sparsity))
        self._require_predictor()
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
    def skipped(self) -> tuple[str, ...]:
        """All patterns of layers that stay dense."""
        return with_defaults(self.skip, self.skip_defaults)

    @property
    def contextual(self) -> bool:
        """Whether MLPs read only some of their neurons."""
        return self.sparsity != "2:4"

    def _require_predictor(self) -> None:
        if self.predictor is not None:
            from sparseflow.contextual import Predictors

            if not isinstance(self.predictor, Predictors):
                raise ArgumentError(
                    f"sf.compile(predictor={type(self.predictor).__name__})",
                    "predictor must be what sf.train_predictor returns",
                    "or what Predictors.load reads",
                )
        if self.contextual != (self.predictor is not None):
            raise ArgumentError(
                f"sf.compile(sparsity={self.sparsity!r})",
                "contextual sparsity and a predictor go together",
                "pass sparsity='contextual', predictor=sf.train_predictor(model, data), or neither",
            )


def require_one_of(function: str, name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value of the option `name` of ``sf.<function>`` that isn't allowed.

    Raises:
        ArgumentError: names the option and what it may be.
    """
    if value not in allowed:
        raise ArgumentError(
            f"sf.{function}({name}={value!r})",
            f"{name} must be one of {', '.join(map(repr, allowed))}",
            f"pass one of them, or leave {name} out",
        )


def require_patterns(function: str, skip: object) -> None:
    """Refuse an option `skip` of ``sf.<function>`` that is no sequence of patterns.

    Raises:
        ArgumentError: says what it must be.
    """
    if isinstance(skip, str) or not isinstance(skip, Sequence) or not all(isinstance(p, str) for p in skip):
        raise ArgumentError(
            f"sf.{function}(skip={skip!r})",
            "skip must be a sequence of fnmatch patterns over layer names",
            'for example skip=("classifier", "*.down_proj")',
        )


def with_defaults(skip: Sequence[str], skip_defaults: bool) -> tuple[str, ...]:
    """The patterns of `skip` and, if asked for, those of `DEFAULT_SKIP`."""
    return (*DEFAULT_SKIP, *skip) if skip_defaults else tuple(skip)


def require_matches(function: str, skip: Iterable[str], model: nn.Module) -> None:
    """Refuse a pattern of the option `skip` of ``sf.<function>`` that matches no layer of a model.

    Those of `DEFAULT_SKIP` need not match: few models have all of these layers.

    Raises:
        ArgumentError: names the pattern, and layers of similar names.
    """
    parameters = (name.removesuffix(".weight") for name, _ in model.named_parameters(remove_duplicate=False))
    names = dict.fromkeys([*parameters, *(name for name, _ in model.named_modules(remove_duplicate=False))])
    for pattern in skip:
        if pattern in DEFAULT_SKIP or any(fnmatchcase(name, pattern) for name in names):
            continue
        plain = pattern.strip("*.")
        near = difflib.get_close_matches(plain, names, n=3, cutoff=0.5) or [n for n in names if n][:3]
        raise ArgumentError(
            f"sf.{function}(skip=({pattern!r},))",
            f"{pattern!r} matches no layer of {type(model).__name__}; it has {', '.join(near)}, …",
            "patterns are those of fnmatch, over whole names: '*.down_proj'",
        )
