"""The predictors of a model's MLPs and their file format, safetensors."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.contextual import Predictor
from sparseflow.runtime.contextual.by_gate import RULE, GateThreshold
from sparseflow.support.documents import Document
from sparseflow.support.text_table import Column, text_table

_FORMAT, _VERSION = "sparseflow-predictors", 1
_PARTS = {
    "pred_a": "a",
    "pred_b": "b",
    "pred_bias": "bias",
    "pred_a_scale": "a_scale",
    "pred_b_scale": "b_scale",
}


@dataclass(frozen=True)
class Figures:
    """The quality of a predictor on held-out rows.

    Contribution: the norm of a neuron's addend in the MLP's output. Oracle: the same number of neurons
    with the largest contributions.

    Attributes:
        active: the share of neurons that it selects, a row at a time.
        precision: of those that it selects, the share that is among the target rate's largest contributions.
        recall: of these, the share that it selects.
        coverage: the share of all contributions that those selected make.
        output_error: ‖y − y'‖ / ‖y‖, y the MLP's output without down's bias, y' that of the selected neurons.
        oracle_coverage: that of the oracle.
        oracle_error: that of the oracle.
        union: the share of neurons that any of m rows selects, by m.
        rows: the number of rows.
    """

    active: float
    precision: float
    recall: float
    coverage: float
    output_error: float
    oracle_coverage: float
    oracle_error: float
    union: Mapping[int, float]
    rows: int


@dataclass(frozen=True, eq=False)
class MlpPredictor:
    """One MLP's predictor.

    Attributes:
        predictor: scores and selects, or the threshold of a gate.
        rate: the target share of neurons.
        figures: its quality; None if not measured.
    """

    predictor: Predictor | GateThreshold
    rate: float
    figures: Figures | None = None

    def union(self, m: int) -> float:
        """Return the share of neurons that m rows need together, measured or assuming independent rows."""
        measured = {} if self.figures is None else self.figures.union
        return measured.get(m, 1 - (1 - self.rate) ** m)

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by the compiler's names, without missing ones."""
        found = {part: getattr(self.predictor, name, None) for part, name in _PARTS.items()}
        return {part: tensor for part, tensor in found.items() if tensor is not None}


@dataclass(frozen=True, eq=False)
class Predictors(Mapping[str, MlpPredictor]):
    """The predictors of a model's MLPs by the names of their up layers, for `sparseflow.compile`.

    Attributes:
        layers: by name.
    """

    layers: Mapping[str, MlpPredictor]

    def __getitem__(self, name: str) -> MlpPredictor:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(layer.predictor.nbytes for layer in self.layers.values())

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Predictors:
        """Move to a device, or cast the matrices to a floating dtype."""
        return Predictors(
            {
                name: dataclasses.replace(layer, predictor=layer.predictor.to(device=device, dtype=dtype))
                for name, layer in self.layers.items()
            }
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to a safetensors file.

        Raises:
            ArgumentError: the file can't be written.
        """
        tensors = {
            f"{name}/{part}": tensor.contiguous().cpu()
            for name, layer in self.layers.items()
            for part, tensor in layer.tensors().items()
        }
        about = {name: _about(layer) for name, layer in self.layers.items()}
        head = {"format": _FORMAT, "version": str(_VERSION), "layers": json.dumps(about)}
        try:
            save_file(tensors, path, metadata=head)
        except (OSError, SafetensorError) as error:
            raise ArgumentError(f"file {path}", f"can't be written: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictors:
        """Read what `save` wrote.

        Raises:
            ArgumentError: there is no such file, or it has another format.
        """
        try:
            with safe_open(Path(path), framework="pt") as file:
                head = file.metadata() or {}
                if head.get("format") != _FORMAT or head.get("version") != str(_VERSION):
                    raise ValueError(f"it is no {_FORMAT} file of version {_VERSION}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            about = json.loads(head["layers"])
            return cls({name: _layer(name, entry, tensors) for name, entry in about.items()})
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArgumentError(
                f"predictors {path}", f"can't be read: {error}", "write them with Predictors.save"
            ) from None

    def to_dict(self) -> dict[str, object]:
        """Return everything but the tensors, ready for JSON."""
        return {
            name: {**_about(layer), "rank": layer.predictor.rank, "bytes": layer.predictor.nbytes}
            for name, layer in self.layers.items()
        }

    def table(self, width: int = 130) -> str:
        """Return the predictors as text, one line an MLP."""
        rows = [(name, *_cells(layer)) for name, layer in self.layers.items()]
        return text_table("", _COLUMNS, rows, (), width)


_FIGURES = (
    "rank",
    "rule",
    "rate",
    "active",
    "precision",
    "recall",
    "coverage",
    "of oracle",
    "out. err",
    "oracle",
)
_COLUMNS: tuple[Column, ...] = (("MLP", "left"), *((heading, "right") for heading in _FIGURES))


def _cells(layer: MlpPredictor) -> list[str]:
    found = [str(layer.predictor.rank), layer.predictor.rule, f"{layer.rate:.3f}"]
    figures = layer.figures
    if figures is None:
        return [*found, *[""] * (len(_FIGURES) - len(found))]
    return found + [
        f"{value:.3f}"
        for value in (
            figures.active,
            figures.precision,
            figures.recall,
            figures.coverage,
            figures.coverage / max(figures.oracle_coverage, 1e-12),
            figures.output_error,
            figures.oracle_error,
        )
    ]


def _about(layer: MlpPredictor) -> dict[str, object]:
    figures = None if layer.figures is None else dataclasses.asdict(layer.figures)
    predictor = layer.predictor
    return {"rule": predictor.rule, "parameter": predictor.parameter, "rate": layer.rate, "figures": figures}


def _layer(name: str, about: Document, tensors: Mapping[str, Tensor]) -> MlpPredictor:
    parameter = float(about["parameter"])
    predictor: Predictor | GateThreshold = GateThreshold(parameter)
    if about["rule"] != RULE:
        parts = {field: tensors.get(f"{name}/{part}") for part, field in _PARTS.items()}
        predictor = Predictor(**parts, rule=about["rule"], parameter=parameter)  # type: ignore[arg-type]
    figures = about["figures"]
    if figures is not None:
        union = {int(m): float(share) for m, share in figures["union"].items()}
        figures = Figures(**{**figures, "union": union})
    return MlpPredictor(predictor, float(about["rate"]), figures)
