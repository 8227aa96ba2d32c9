"""The options of `sparseflow.compile`, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sparseflow.errors import ArgumentError
from sparseflow.runtime.backends import MEMORY_MODES, Memory

Prune = Literal["magnitude"]
PolicyMode = Literal["auto", "sparse"]
Inner = Literal["eager", "inductor"]

DEFAULT_SKIP: tuple[str, ...] = ("lm_head", "*.lm_head", "*embed*")
"""Layers that stay dense unless `skip=` says otherwise: pruning a head or an embedding costs most quality."""


@dataclass(frozen=True)
class CompileOptions:
    """How a model is compiled.

    Attributes:
        prune: how weights that are not 2:4 yet become so; ``None`` leaves them dense and says so.
        skip: fnmatch patterns over layer names that stay dense.
        policy: ``"auto"`` runs each layer by the faster measured path for every M and leaves a layer
            dense that never wins; ``"sparse"`` runs every eligible layer sparse without measuring.
        memory: ``"compressed"`` keeps no dense copy of a sparse layer's weight, ``"fast"`` one wherever dense
            is faster for some M.
        tune: measure what no table has yet for the GPU; CPUs are always measured.
        inner: what runs the lowered graph: torch.fx as it is, or ``torch.compile``'s inductor over it.
        inplace: release the model's dense weights as they are packed.
        progress: show progress bars; ``None``: only on a terminal.
    """

    prune: Prune | None = "magnitude"
    skip: tuple[str, ...] = DEFAULT_SKIP
    policy: PolicyMode = "auto"
    memory: Memory = "compressed"
    tune: bool = False
    inner: Inner = "eager"
    inplace: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        _one_of("prune", self.prune, (*get_args(Prune), None))
        _one_of("policy", self.policy, get_args(PolicyMode))
        _one_of("memory", self.memory, MEMORY_MODES)
        _one_of("tune", self.tune, (True, False))
        _one_of("inner", self.inner, get_args(Inner))
        _patterns(self.skip)


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ArgumentError(
            f"sf.compile({name}={value!r})",
            f"{name} must be one of {', '.join(map(repr, allowed))}",
            f"pass one of them, or leave {name} out",
        )


def _patterns(skip: object) -> None:
    if isinstance(skip, str) or not isinstance(skip, Sequence) or not all(isinstance(p, str) for p in skip):
        raise ArgumentError(
            f"sf.compile(skip={skip!r})",
            "skip must be a sequence of fnmatch patterns over layer names",
            'for example skip=("lm_head", "*.down_proj"); skip=() skips nothing',
        )
