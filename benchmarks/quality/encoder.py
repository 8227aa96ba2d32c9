"""Quality of all-MiniLM-L6-v2 after one-shot 2:4 pruning: embeddings and retrieval against the dense model.

700 first lines of the standard library's docstrings are shuffled under a seed: 400 calibrate, 300 test.
Cosine is the mean over the test sentences of that between a sentence's dense and pruned embedding; overlap
the mean share of a sentence's ten nearest others that dense and pruned embeddings agree on. All linear layers
of the encoder are pruned, but for the pooler, which embeddings don't use; with ``dense_blocks`` the last of
the six blocks stay dense.

    python benchmarks/quality/encoder.py [--seeds 0 1 2] [--quick] [--packed FOLDER]
                                         [--results FOLDER]
    python benchmarks/quality/encoder.py --plot RESULTS.json FILE.png   # quality against dense blocks
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sparseflow as sf
from sparseflow.evaluation import plots

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "demo")]

from _measure import RESULTS, cpu_name, meta, write  # noqa: E402
from encoder_pack import unpack  # noqa: E402
from models import Encoder, embed, load_encoder  # noqa: E402
from sentences import docstring_sentences  # noqa: E402

CALIBRATION, TEST, NEAREST, BLOCKS = 400, 300, 10, 6

METHODS: list[dict[str, Any]] = [
    {"method": "sparsegpt", "reconstruct": "layer"},
    {"method": "sparsegpt"},
    {"method": "ria", "permute": True},
    {"method": "ria"},
    {"method": "wanda"},
    {"method": "magnitude"},
    {"method": "wanda", "reconstruct": "layer"},
    {"method": "sparsegpt", "permute": True, "reconstruct": "layer"},
    {"method": "ria", "permute": True, "reconstruct": "layer"},
    {"method": "magnitude", "reconstruct": "layer"},
]
SLOWEST: dict[str, Any] = {"method": "sparsegpt", "reconstruct": "block"}


def split(seed: int, sentences: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sentences to calibrate on and to test on."""
    order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(seed)).tolist()
    return [sentences[i] for i in order[:CALIBRATION]], [sentences[i] for i in order[CALIBRATION:]]


def by_length(encoder: Encoder, sentences: list[str]) -> list[dict[str, Tensor]]:
    """Sentences of equal length together, so that no batch has padding."""
    lengths: dict[int, list[str]] = {}
    for sentence in sentences:
        lengths.setdefault(len(encoder.tokenizer(sentence)["input_ids"]), []).append(sentence)
    return [encoder.tokenize(group) for _, group in sorted(lengths.items())]


def quality(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Mean cosine and overlap of the nearest neighbours of embeddings ``[sentences, hidden]``."""
    near = [_nearest(embeddings) for embeddings in (found, expected)]
    shared = (near[0][:, :, None] == near[1][:, None, :]).any(2).double().mean()
    cosine = F.cosine_similarity(found, expected).double().mean()
    return {"cosine": round(float(cosine), 4), "overlap": round(float(shared), 4)}


def _nearest(embeddings: Tensor) -> Tensor:
    similarity = embeddings @ embeddings.t()
    return similarity.fill_diagonal_(-torch.inf).topk(NEAREST).indices


def runs(seeds: Sequence[int], quick: bool) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Seed, blocks left dense and options of each run."""
    for seed in seeds:
        yield from ((seed, 0, options) for options in METHODS if not quick or "permute" not in options)
    for seed, dense in itertools.product(seeds, range(1, BLOCKS)):
        yield seed, dense, {"method": "sparsegpt", "reconstruct": "layer"}
    yield from ((seed, 0, SLOWEST) for seed in seeds)


def plot(source: Path, path: Path) -> Path:
    """Draw the mean cosine against the number of blocks left dense."""
    found: dict[int, list[float]] = {}
    for row in json.loads(source.read_text())["rows"]:
        if (row["method"], row["permute"], row["reconstruct"]) == ("sparsegpt", False, "layer"):
            found.setdefault(row["dense_blocks"], []).append(row["cosine"])
    points = [(dense, statistics.mean(cosines)) for dense, cosines in sorted(found.items())]
    return plots.curve(points, path, f"blocks left dense, of {BLOCKS}", "mean cosine to the dense embeddings")


def main() -> int:
    """Prune by each method, and write quality_encoder.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="leave out permutations")
    parser.add_argument("--packed", type=Path, help="a folder of encoder_pack.py to take all from")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("RESULTS", "FILE"))
    arguments = parser.parse_args()
    if arguments.plot:
        print(plot(*arguments.plot))
        return 0
    warnings.simplefilter("ignore")
    if arguments.packed:
        encoder, sentences, _ = unpack(arguments.packed)
    else:
        encoder, sentences = load_encoder(), docstring_sentences(CALIBRATION + TEST)
    head = meta(
        cpu_name(),
        sentences={"calibration": CALIBRATION, "test": TEST},
        nearest=NEAREST,
        weights="float16" if arguments.packed else "float32",
    )
    rows = []
    for seed, dense, options in runs(arguments.seeds, arguments.quick):
        calibration, test = split(seed, sentences)
        model = copy.deepcopy(encoder.model)
        skip = ("*pooler*", *(f"*layer.{BLOCKS - 1 - block}.*" for block in range(dense)))
        start = time.perf_counter()
        report = sf.prune(model, calibration=by_length(encoder, calibration), skip=skip, seed=seed, **options)
        seconds = round(time.perf_counter() - start, 1)
        pruned = sum(layer.method is not None for layer in report.layers)
        measured = quality(embed(encoder, model, test), embed(encoder, encoder.model, test))
        row = {"method": options["method"], "permute": False, "reconstruct": None} | options
        row |= {"dense_blocks": dense, "pruned_layers": pruned, **measured, "seconds": seconds, "seed": seed}
        rows.append(row)
        print(row, flush=True)
        write("quality_encoder", head, rows, arguments.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
