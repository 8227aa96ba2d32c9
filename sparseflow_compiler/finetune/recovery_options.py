"""The options of `sparseflow.recover`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from sparseflow.errors import ArgumentError
from sparseflow.finetune.objective import Objective
from sparseflow.finetune.optimizers import Kind
from sparseflow.support.arguments import require_one_of


@dataclass(frozen=True)
class RecoverOptions:
    """How a model is recovered; `recover` says what each option means."""

    minutes: float = 20.0
    text_share: float = 0.5
    tokens: int | None = None
    length: int = 512
    steps: int | None = None
    batch: int | None = None
    micro: int | None = None
    lr: float | None = None
    objective: Objective | None = None
    optimizer: Kind = "adamw"
    masters: bool = True
    gradient_checkpointing: bool = False
    compile_layers: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_one_of("recover", "optimizer", self.optimizer, get_args(Kind))
        if not self.minutes > 0:
            raise _wrong("minutes", self.minutes, "must be a number above 0")
        if not 0 < self.text_share <= 1:
            raise _wrong("text_share", self.text_share, "must be above 0 and at most 1")
        if self.lr is not None and not self.lr > 0:
            raise _wrong("lr", self.lr, "must be above 0")
        for name, least in {"tokens": 2, "length": 8, "steps": 1, "batch": 1, "micro": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise _wrong(name, value, f"must be a whole number of at least {least}")
        if self.batch and self.micro and self.batch % self.micro:
            raise _wrong("micro", self.micro, f"must divide batch={self.batch}")


def _wrong(name: str, value: object, rule: str) -> ArgumentError:
    return ArgumentError(f"sf.recover({name}={value!r})", rule)
