"""The options of `sparseflow.prune`, checked once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.pruning.methods import METHODS
from sparseflow.runtime.pattern import Pattern
from sparseflow.support.arguments import require_one_of, require_patterns, with_defaults

Method = Literal["magnitude", "wanda", "ria", "sparsegpt"]
Reconstruct = Literal["layer", "attention", "mlp", "block"]
Unreached = Literal["dense", "magnitude"]
Patterns = str | Mapping[str, str]
"""A pattern for all layers, or one for each fnmatch pattern of layer names."""

DENSE = "dense"
"""What stands for a pattern where a layer keeps all its weights."""
_UNNAMED = "`pattern` names none for it"


@dataclass(frozen=True)
class PruneOptions:
    """How a model is pruned; `sparseflow.prune` says what each option means."""

    method: Method = "magnitude"
    skip: Sequence[str] = ()
    skip_defaults: bool = True
    pattern: Patterns = "2:4"
    damping: float = 0.01
    block: int = 128
    reconstruct: Reconstruct | None = None
    steps: int = 300
    permute: bool = False
    unreached: Unreached = "dense"
    device: str | torch.device | None = None
    checkpoint: str | os.PathLike[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of("prune", "method", self.method, tuple(METHODS))
        _require_pattern(self.pattern)
        require_one_of("prune", "reconstruct", self.reconstruct, (*get_args(Reconstruct), None))
        require_one_of("prune", "permute", self.permute, (True, False))
        if self.permute and not isinstance(self.pattern, str):
            rule = "moves channels in blocks of one pattern, and several are given"
            raise _wrong("permute", self.permute, rule, "leave permute out, or give one pattern")
        require_one_of("prune", "unreached", self.unreached, get_args(Unreached))
        require_patterns("prune", self.skip)
        if not (isinstance(self.damping, (int, float)) and math.isfinite(self.damping) and self.damping >= 0):
            raise _wrong("damping", self.damping, "must be a finite number ≥ 0", "try 0.01")
        if not (isinstance(self.block, int) and self.block > 0 and self.block % 4 == 0):
            raise _wrong("block", self.block, "must be a positive multiple of 4", "try 128")
        if not (isinstance(self.steps, int) and self.steps > 0):
            raise _wrong("steps", self.steps, "must be a positive number of steps", "try 300")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise _wrong("seed", self.seed, "must be an integer ≥ 0", "try 0")
        if self.device is not None:
            _require_device(self.device)

    @property
    def skipped(self) -> tuple[str, ...]:
        """All patterns of layers to keep dense."""
        return with_defaults(self.skip, self.skip_defaults)

    def kept(self, layer: str) -> Pattern:
        """Return how many entries of how many a layer keeps that isn't dense."""
        return Pattern.of(self._pattern_of(layer))

    @property
    def named(self) -> str:
        """What a report calls the pattern of all layers: its name, or "mixed"."""
        if isinstance(self.pattern, str):
            return self.pattern
        names = set(self.pattern.values()) - {DENSE}
        return names.pop() if len(names) == 1 else "mixed"

    def layers(self, model: nn.Module) -> list[Layer]:
        """Return every linear layer of a model, in the order of its modules, and why some stay dense."""
        return [self._with_reason(layer) for layer in find_layers(model, self.skipped)]

    def _with_reason(self, layer: Layer) -> Layer:
        if layer.dense is None and self._pattern_of(layer.name) == DENSE:
            return replace(layer, dense=_UNNAMED)
        return layer

    def _pattern_of(self, layer: str) -> str:
        if isinstance(self.pattern, str):
            return self.pattern
        if layer in self.pattern:
            return self.pattern[layer]
        matching = (name for key, name in self.pattern.items() if fnmatchcase(layer, key))
        return next(matching, DENSE)

    @property
    def gram(self) -> bool:
        """Whether ``XᵀX`` is needed of each layer's inputs."""
        return METHODS[self.method].needs == "gram" or self.reconstruct is not None

    def require_calibration(self) -> None:
        """Refuse options that need calibration data.

        Raises:
            ArgumentError: there is one; the error names the first.
        """
        if METHODS[self.method].needs != "nothing":
            remedy = "pass calibration=[…], some tens of typical batches; method='magnitude' needs none"
            raise _wrong("method", self.method, "needs calibration data, and calibration is None", remedy)
        for name in ("reconstruct", "permute", "checkpoint", "device"):
            value = getattr(self, name)
            if value:
                remedy = f"pass calibration=[…], or leave {name} out"
                raise _wrong(name, value, "needs calibration data, and calibration is None", remedy)

    def require_budgetable(self) -> None:
        """Refuse options incompatible with a budget, which restores single layers and chooses their patterns.

        Raises:
            ArgumentError: there is one; the error names it.
        """
        if not isinstance(self.pattern, str):
            rule = "can't be combined with a budget, which chooses the patterns"
            raise _wrong("pattern", self.pattern, rule, "pass patterns=(…) to choose from")
        for name in ("permute", "checkpoint"):
            value = getattr(self, name)
            if value:
                rule = "can't be combined with a budget, which puts single dense layers back"
                raise _wrong(name, value, rule, f"leave {name} out, or choose the layers by skip=")

    def require_no_choice(self, patterns: object, recovery: float) -> None:
        """Refuse options of a budget where there is none.

        Raises:
            ArgumentError: there is one; the error names it.
        """
        for name, value, usual in (("patterns", patterns, None), ("recovery", recovery, 1.0)):
            if value != usual:
                rule = "says how a budget is met, and there is none"
                raise _wrong(name, value, rule, "pass max_loss=… or max_bytes=… too")


def _require_pattern(pattern: object) -> None:
    if not isinstance(pattern, Mapping):
        Pattern.of(pattern)
        return
    if not pattern or not all(isinstance(key, str) for key in pattern):
        rule = "must be a pattern's name, or a mapping from fnmatch patterns of layer names to such names"
        raise _wrong("pattern", pattern, rule, "for example {'*.down_proj': '6:8', '*': '4:6'}")
    for name in pattern.values():
        if name != DENSE:
            Pattern.of(name)


def _require_device(device: object) -> None:
    try:
        torch.empty(0, device=torch.device(device))  # type: ignore[call-overload]
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise _wrong("device", device, f"can't be used: {reason}", "leave it out, or try 'cpu'") from error


def _wrong(name: str, value: object, rule: str, remedy: str) -> ArgumentError:
    return ArgumentError(f"sf.prune({name}={value!r})", rule, remedy)
