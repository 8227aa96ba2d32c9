"""Quality of all-MiniLM-L6-v2 against the share of neurons that its MLPs read: predictor against oracle.

The encoder's MLPs are plain (gelu, 384 → 1536). Each token reads its own neurons, the same number of them.
The predictor is what sf.train_predictor makes of 400 calibration sentences, at rank 4% and at the rank that
is stated; the oracle reads the neurons with the largest contributions, which one only knows after computing
all. Cosine is the mean over 300 test sentences of that between a sentence's embedding and the dense one;
overlap as in encoder.py.

    python benchmarks/quality/contextual.py [--quick] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from encoder import CALIBRATION, TEST, by_length, quality, split

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "demo")]

from _measure import RESULTS, cpu_name, meta, write  # noqa: E402
from models import embed, load_encoder  # noqa: E402
from sentences import docstring_sentences  # noqa: E402

from sparseflow.contextual import ModelMlp, Predictors, find_model_mlps, train_predictor  # noqa: E402
from sparseflow.contextual.judging import selected  # noqa: E402
from sparseflow.contextual.selection import top  # noqa: E402
from sparseflow.reports.charts import chart  # noqa: E402
from sparseflow.runtime.contextual import Predictor  # noqa: E402

RATES = (0.5, 0.3, 0.2, 0.75, 0.4, 0.1, 1.0)
QUICK = (0.5, 0.3)
STEPS = 200
RANKS = {"predictor, rank 4%": None, "predictor, rank 10%": 154}

Select = Callable[[ModelMlp, Tensor], Tensor]
"""The neurons `[rows, I]` that an MLP reads for its inputs `[rows, H]`."""


@contextmanager
def reading(mlps: list[ModelMlp], select: Select) -> Iterator[None]:
    """Let MLPs read only some neurons: down sees the others as zero."""
    masks: dict[str, Tensor] = {}

    def look(mlp: ModelMlp) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            masks[mlp.name] = select(mlp, x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)

        return hook

    def mask(mlp: ModelMlp) -> Callable[..., tuple[Tensor]]:
        return lambda module, args: (args[0] * masks[mlp.name],)

    with ExitStack() as stack:
        for mlp in mlps:
            stack.callback(mlp.module.register_forward_pre_hook(look(mlp)).remove)
            stack.callback(mlp.down_layer.module.register_forward_pre_hook(mask(mlp)).remove)
        yield


def oracle(rate: float) -> Select:
    """The neurons with the largest contributions."""
    return lambda mlp, x: top(mlp.contributions(mlp.hidden(x)), rate)


def predicted(predictors: Predictors) -> Select:
    """The neurons that predictors select."""

    def select(mlp: ModelMlp, x: Tensor) -> Tensor:
        predictor = predictors[mlp.name].predictor
        assert isinstance(predictor, Predictor), "trained with a rule over scores"
        return selected(*predictor.select(x, per_row=True))

    return select


def figures(predictors: Predictors) -> dict[str, Any]:
    """Means over the MLPs of what training reported."""
    found = [layer.figures for layer in predictors.values() if layer.figures is not None]
    names = ("precision", "recall", "coverage", "oracle_coverage", "output_error", "oracle_error")
    return {name: round(sum(getattr(f, name) for f in found) / len(found), 4) for name in names}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw cosine against the active rate, a line a way to choose."""
    with chart(path, 7, 4) as figure:
        axes = figure.subplots()
        for name in dict.fromkeys(row["neurons"] for row in rows):
            points = sorted((100 * row["active"], row["cosine"]) for row in rows if row["neurons"] == name)
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set_xlabel("active neurons, % of each token's")
        axes.set_title("cosine to the dense embedding")
        axes.invert_xaxis()
        axes.legend()


def main() -> int:
    """Measure every rate, and write quality_contextual.json and .png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rates")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    encoder = load_encoder()
    calibration, test = split(0, docstring_sentences(CALIBRATION + TEST))
    data = by_length(encoder, calibration)
    mlps = find_model_mlps(encoder.model, (), data[0])
    dense = embed(encoder, encoder.model, test)
    head = meta(
        cpu_name(), model="all-MiniLM-L6-v2", steps=STEPS, sentences={"train": 400, "test": len(test)}
    )
    rows: list[dict[str, Any]] = []

    def add(neurons: str, rate: float, select: Select, **more: Any) -> None:
        with torch.no_grad(), reading(mlps, select):
            measured = quality(embed(encoder, encoder.model, test), dense)
        rows.append({"neurons": neurons, "active": rate, **measured, **more})
        print(rows[-1], flush=True)
        write("quality_contextual", head, rows, arguments.results)

    for rate in QUICK if arguments.quick else RATES:
        add("oracle", rate, oracle(rate))
        for name, rank in RANKS.items():
            start = time.perf_counter()
            made = train_predictor(encoder.model, data, rate=rate, rank=rank, steps=STEPS if rate < 1 else 0)
            seconds = round(time.perf_counter() - start, 1)
            ranks = {layer.predictor.rank for layer in made.values()}
            add(name, rate, predicted(made), rank=max(ranks), **figures(made), train_seconds=seconds)
    plot(rows, arguments.results / "quality_contextual.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
