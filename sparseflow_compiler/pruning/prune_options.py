"""The options of `sparseflow.prune`, checked once."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from sparseflow.errors import ArgumentError
from sparseflow.pruning.methods import METHODS
from sparseflow.runtime.pattern import Pattern
from sparseflow.support.arguments import require_one_of, require_patterns, with_defaults

Method = Literal["magnitude", "wanda", "ria", "sparsegpt"]
Reconstruct = Literal["layer", "attention", "mlp", "block"]
Unreached = Literal["dense", "magnitude"]


@dataclass(frozen=True)
class PruneOptions:
    """How a model is pruned; `sparseflow.prune` says what each option means."""

    method: Method = "magnitude"
    skip: Sequence[str] = ()
    skip_defaults: bool = True
    pattern: str = "2:4"
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
        Pattern.of(self.pattern)
        require_one_of("prune", "reconstruct", self.reconstruct, (*get_args(Reconstruct), None))
        require_one_of("prune", "permute", self.permute, (True, False))
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

    @property
    def kept(self) -> Pattern:
        """How many entries of how many are kept."""
        return Pattern.of(self.pattern)

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
        """Refuse options incompatible with a budget, which restores single layers.

        Raises:
            ArgumentError: there is one; the error names it.
        """
        for name in ("permute", "checkpoint"):
            value = getattr(self, name)
            if value:
                rule = "can't be combined with max_loss: a budget puts single dense layers back"
                raise _wrong(name, value, rule, f"leave {name} out, or choose the layers by skip=")


def _require_device(device: object) -> None:
    try:
        torch.empty(0, device=torch.device(device))  # type: ignore[call-overload]
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise _wrong("device", device, f"can't be used: {reason}", "leave it out, or try 'cpu'") from error


def _wrong(name: str, value: object, rule: str, remedy: str) -> ArgumentError:
    return ArgumentError(f"sf.prune({name}={value!r})", rule, remedy)
