"""What `sparseflow bench contextual` measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparseflow.contextual.activations.rates import RATES, STEP
from sparseflow.errors import ArgumentError

PREDICTORS, ACTIVATIONS = "predictors", "activations"
_ONLY = {PREDICTORS: {"rates", "rank", "sparsity"}, ACTIVATIONS: {"left_out"}}
"""The methods, with the options that belong to one of them alone."""
FORMATS: dict[str, str | None] = {"contextual": None, "contextual+2:4": "2:4"}
"""The sides of predictors, with the weight format of each."""


@dataclass(frozen=True)
class BenchConfig:
    """The configuration of the benchmark.

    Attributes:
        hidden: H.
        intermediate: I.
        layers: the number of decoder layers.
        heads: attention heads; kv_heads are those of keys and values.
        vocab: the size of the vocabulary.
        rates: the share of active neurons in each layer, or one for all.
        rank: the predictors' rank; None: 4% of the neurons.
        dtype: the model's dtype: float32, bfloat16 or float16.
        prompts: the number of tokens of each prompt.
        tokens: tokens decoded after each prompt.
        repeats: repetitions of each prompt on each side.
        sparsity: the sides beside dense: contextual, or contextual+2:4.
        method: what is left out: neurons of MLPs that predictors don't select, or inputs of all linear
            layers near zero, the activations of other methods.
        left_out: with activations the shares of inputs left out, each a side beside dense.
    """

    hidden: int = 3072
    intermediate: int = 8192
    layers: int = 4
    heads: int = 24
    kv_heads: int = 8
    vocab: int = 128256
    rates: tuple[float, ...] = (0.25,)
    rank: int | None = None
    dtype: str = "float32"
    prompts: tuple[int, ...] = (50, 200, 500)
    tokens: int = 16
    repeats: int = 3
    sparsity: tuple[str, ...] = ("contextual",)
    method: str = PREDICTORS
    left_out: tuple[float, ...] = (0.25, 0.4, 0.5)

    def __post_init__(self) -> None:
        counts = ("hidden", "intermediate", "layers", "heads", "kv_heads", "vocab", "tokens", "repeats")
        for name in counts:
            if not _is_count(getattr(self, name)):
                raise _wrong(name, getattr(self, name), "must be a whole number of at least 1")
        if self.rank is not None and not _is_count(self.rank):
            raise _wrong("rank", self.rank, "must be a whole number of at least 1")
        if not self.prompts or not all(map(_is_count, self.prompts)):
            raise _wrong("prompts", self.prompts, "must be numbers of tokens")
        shares = isinstance(self.rates, tuple) and all(
            isinstance(rate, (int, float)) and 0 < rate <= 1 for rate in self.rates
        )
        if not shares or len(self.rates) not in (1, self.layers):
            rule = f"must be shares above 0 and at most 1: one, or one for each of {self.layers} layers"
            raise _wrong("rates", self.rates, rule)
        if not self.sparsity or not set(self.sparsity) <= set(FORMATS):
            raise _wrong("sparsity", self.sparsity, f"must be some of {', '.join(FORMATS)}")
        if self.method not in _ONLY:
            raise _wrong("method", self.method, f"must be {' or '.join(_ONLY)}")
        steps = [round(share / STEP) * STEP for share in self.left_out]
        if not steps or not all(
            0 < share <= RATES[-1] and abs(share - step) < 1e-9
            for share, step in zip(self.left_out, steps, strict=True)
        ):
            raise _wrong(
                "left_out", self.left_out, f"must be shares in steps of {STEP} up to {RATES[-1]:.2f}"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise _wrong("dtype", self.dtype, "must be float32, bfloat16 or float16")
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise _wrong(
                "heads", self.heads, f"must divide hidden {self.hidden}, and kv_heads must divide it"
            )

    @property
    def layer_rates(self) -> tuple[float, ...]:
        """The rate of each layer."""
        return self.rates if len(self.rates) > 1 else self.rates * self.layers

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values of one token."""
        size = 4 if self.dtype == "float32" else 2
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads) * size

    @classmethod
    def of(cls, values: Mapping[str, object]) -> BenchConfig:
        """Build a configuration from the plain values of a file, with lists for tuples.

        Raises:
            ArgumentError: an unknown name or a wrong value.
        """
        known = cls.__dataclass_fields__
        for name in values:
            if name not in known:
                raise ArgumentError(
                    f"bench configuration, {name}", f"is unknown; known are {', '.join(known)}"
                )
        method = str(values.get("method", PREDICTORS))
        for other, names in _ONLY.items():
            if other != method and (given := sorted(names & set(values))):
                raise _wrong(given[0], values[given[0]], f"belongs to method={other!r}, not to {method!r}")
        lists: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        if isinstance(lists.get("rates"), (int, float)):
            lists["rates"] = (lists["rates"],)
        return cls(**lists)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _wrong(name: str, value: object, rule: str) -> ArgumentError:
    return ArgumentError(f"bench configuration, {name}={value!r}", rule)
