"""The thresholds of a model's linear layers and their file format, JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparseflow.errors import ArgumentError
from sparseflow.support.documents import Document
from sparseflow.support.text_table import Column, text_table

_FORMAT, _VERSION = "sparseflow-activation-thresholds", 1
_COLUMNS: tuple[Column, ...] = (
    ("layer", "left"),
    ("N", "right"),
    ("K", "right"),
    ("threshold", "right"),
    ("left out", "right"),
    ("KL, nats", "right"),
)


@dataclass(frozen=True)
class LayerThreshold:
    """The threshold of one linear layer.

    Attributes:
        threshold: inputs smaller in magnitude are left out.
        rate: the share of inputs that it leaves out, on the text that it was chosen on.
        cost: by how much leaving them out, in this layer and those that share its input alone, was estimated
            to change the next token's distribution: KL divergence, nats a token.
        shape: (N, K).
    """

    threshold: float
    rate: float
    cost: float
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < float("inf") or not 0 <= self.rate <= 1:
            raise ArgumentError(
                f"threshold {self.threshold} at the rate {self.rate}",
                "a threshold is finite and at least 0, its rate a share",
            )


@dataclass(frozen=True)
class Calibrated:
    """How thresholds were chosen.

    Attributes:
        source: ``text``, ``tokens`` or ``self``.
        tokens: how many were looked at.
        rate: the share of the layers' weights that is left out for a token.
        loss: by how much the loss rose on the tokens, measured with all thresholds in force, nats a token.
        perplexity: the perplexity on the tokens over that of the dense model, e^loss.
    """

    source: str
    tokens: int
    rate: float
    loss: float
    perplexity: float


@dataclass(frozen=True, eq=False)
class ActivationThresholds(Mapping[str, LayerThreshold]):
    """The thresholds of a model's linear layers by name, for `sparseflow.compile`.

    Attributes:
        layers: by name. Those that read the same input, such as q, k and v, have the same threshold.
        chosen: how they were chosen; None if by hand.
    """

    layers: Mapping[str, LayerThreshold]
    chosen: Calibrated | None = None

    def __getitem__(self, name: str) -> LayerThreshold:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def rate(self) -> float:
        """The share of the layers' weights that is left out for a token."""
        sizes = [layer.shape[0] * layer.shape[1] for layer in self.layers.values()]
        left = sum(size * layer.rate for size, layer in zip(sizes, self.layers.values(), strict=True))
        return left / max(sum(sizes), 1)

    def to_dict(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        return {
            "chosen": None if self.chosen is None else dataclasses.asdict(self.chosen),
            "layers": {
                name: {**dataclasses.asdict(layer), "shape": list(layer.shape)}
                for name, layer in self.layers.items()
            },
        }

    @classmethod
    def from_dict(cls, document: Document) -> ActivationThresholds:
        """Read what `to_dict` returns.

        Raises:
            ArgumentError: it has another form.
        """
        try:
            chosen = document["chosen"]
            layers = {
                str(name): LayerThreshold(
                    float(entry["threshold"]),
                    float(entry["rate"]),
                    float(entry["cost"]),
                    _shape(entry["shape"]),
                )
                for name, entry in document["layers"].items()
            }
            return cls(layers, None if chosen is None else Calibrated(**chosen))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArgumentError(
                "activation thresholds",
                f"have another form: {error}",
                "write them with ActivationThresholds.save",
            ) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to a JSON file.

        Raises:
            ArgumentError: the file can't be written.
        """
        document = {"format": _FORMAT, "version": _VERSION, **self.to_dict()}
        try:
            Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ArgumentError(f"file {path}", f"can't be written: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ActivationThresholds:
        """Read what `save` wrote.

        Raises:
            ArgumentError: there is no such file, or it has another form.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            if document["format"] != _FORMAT or document["version"] != _VERSION:
                raise ValueError(f"it is no {_FORMAT} file of version {_VERSION}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArgumentError(
                f"activation thresholds {path}",
                f"can't be read: {error}",
                "write them with ActivationThresholds.save",
            ) from None
        return cls.from_dict(document)

    def table(self, width: int = 110) -> str:
        """Return the thresholds as text, one line a layer."""
        rows = [
            (name, *map(str, layer.shape), f"{layer.threshold:.4g}", f"{layer.rate:.1%}", f"{layer.cost:.2e}")
            for name, layer in self.layers.items()
        ]
        return text_table("", _COLUMNS, rows, (self._summary(),), width)

    def _summary(self) -> str:
        left = f"{self.rate:.1%} of the weights are left out for a token"
        if self.chosen is None:
            return f"{left}."
        return (
            f"{left}; perplexity {self.chosen.perplexity:.4f}× the dense model's over "
            f"{self.chosen.tokens} tokens ({self.chosen.source})."
        )


def _shape(sizes: object) -> tuple[int, int]:
    if not isinstance(sizes, (list, tuple)) or len(sizes) != 2:
        raise ValueError(f"a shape is two numbers, not {sizes!r}")
    return int(sizes[0]), int(sizes[1])
