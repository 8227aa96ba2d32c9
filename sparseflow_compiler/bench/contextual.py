"""Benchmark a Llama of a given shape, dense and contextual: first token, tokens a second, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseflow.api.compile import compile as compile_model
from sparseflow.api.compiled import CompiledModel
from sparseflow.bench.contextual_config import ACTIVATIONS, FORMATS, BenchConfig
from sparseflow.bench.floor import Floor
from sparseflow.contextual.activations.calibrating import ChoiceOptions, ThresholdChoice
from sparseflow.contextual.model_mlps import ModelMlp, find_model_mlps
from sparseflow.contextual.predictors import MlpPredictor, Predictors
from sparseflow.contextual.selection import count_of
from sparseflow.contextual.training import usual_rank
from sparseflow.integrations.transformers.argument_names import with_cache
from sparseflow.integrations.transformers.models import from_config, make_config
from sparseflow.integrations.transformers.static_caches import static_cache
from sparseflow.pruning import prune
from sparseflow.runtime.contextual import Predictor
from sparseflow.support.arguments import DEFAULT_SKIP
from sparseflow.support.documents import Document
from sparseflow.support.progress import Step
from sparseflow.support.text_table import Column, text_table

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import ModelOutput, PreTrainedModel

_PAGE_FILE = Path("/proc/self/statm")
CALIBRATION = 256
"""Random tokens whose inputs thresholds are taken from."""


def random_predictors(mlps: Sequence[ModelMlp], rates: Sequence[float], rank: int | None) -> Predictors:
    """Make int8 predictors that select random neurons at the given rates, for timing.

    Args:
        mlps: the MLPs of a model.
        rates: the rate of each.
        rank: the rank of all; None for the default.
    """
    made = {}
    for mlp, rate in zip(mlps, rates, strict=True):
        neurons, hidden = mlp.sizes
        r = rank or usual_rank(neurons)
        a, b = (torch.randn(size, device=mlp.up.device) for size in ((r, hidden), (neurons, r)))
        parameter = float(count_of(rate, neurons))
        predictor = Predictor(a, b, None, "top_k", parameter)
        made[mlp.name] = MlpPredictor(predictor.quantized(), rate)
    return Predictors(made)


class Side:
    """A model that answers prompts over a static cache."""

    def __init__(
        self, name: str, run: Callable[..., ModelOutput], model: PreTrainedModel, length: int
    ) -> None:
        self.name, self._run = name, run
        self._cache = static_cache(model, length, batch=1)
        self._options = {**with_cache(model, self._cache), "use_cache": True, "logits_to_keep": 1}
        self._cuda = model.device.type == "cuda"

    def answer(self, prompt: Tensor, tokens: int) -> tuple[float, list[float]]:
        """Decode greedily; return the seconds to the first token and of each further one."""
        self._cache.reset()
        seconds = []
        ids = prompt
        for _ in range(tokens + 1):
            start = time.perf_counter()
            logits = self._run(input_ids=ids, **self._options).logits
            ids = logits[:, -1:].argmax(-1)
            if self._cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds[0], seconds[1:]


@dataclass(frozen=True)
class Compiled:
    """A compiled side.

    Attributes:
        model: what answers.
        read: the bytes of weights that a token needs.
    """

    model: CompiledModel
    read: int


@torch.no_grad()
def bench_contextual(config: BenchConfig, device: torch.device, step: Step) -> Document:
    """Measure a Llama with random weights, dense eager beside contextual, prompt by prompt in turns.

    Args:
        config: what to measure.
        device: where.
        step: called after each answer.

    Returns:
        ``config``; ``rows``, one a prompt and side, times in milliseconds with 50th and 90th percentiles;
        and ``policy``: what the compiler measured for the layers, once for each different one. ``floor_ms``
        is the time of reading what a token needs: the weights that aren't left out, and the prompt's cache.
    """
    model = _llama(config, device)
    ids = torch.randint(0, config.vocab, (1, max(config.prompts)), device=device)
    stored = sum(tensor.nbytes for tensor in model.parameters())
    make = _by_thresholds if config.method == ACTIVATIONS else _by_predictors
    compiled = make(config, model, ids, stored)
    length = max(config.prompts) + config.tokens + 1
    named = [("dense", model), *((name, side.model) for name, side in compiled.items())]
    sides = [Side(name, run, model, length) for name, run in named]
    total = len(config.prompts) * config.repeats * len(sides)
    rows: list[dict[str, object]] = []
    floor, done = Floor(device), 0
    for tokens in config.prompts:
        prompt = ids[:, :tokens]
        for side in sides:
            side.answer(prompt, 1)  # captures and warms up
        answers: dict[str, list[tuple[float, list[float]]]] = {side.name: [] for side in sides}
        for turn in range(config.repeats):
            for side in sides if turn % 2 else sides[::-1]:
                answers[side.name].append(side.answer(prompt, config.tokens))
                done += 1
                step(done, total, f"{side.name}, {tokens} tokens")
        weights = {"dense": stored} | {name: stored + _added(s.model) for name, s in compiled.items()}
        read = {"dense": stored} | {name: side.read for name, side in compiled.items()}
        cache = tokens * config.cache_bytes
        floors = {name: floor.seconds(size + cache) for name, size in read.items()}
        rows += _rows(tokens, answers, weights, floors, device)
    reports = [layer for side in compiled.values() for layer in side.model.report.layers]
    policies = {layer.reason: None for layer in reports if layer.decision != "dense"}
    return {"config": asdict(config), "rows": rows, "policy": list(policies)}


def _by_predictors(
    config: BenchConfig, model: PreTrainedModel, ids: Tensor, stored: int
) -> dict[str, Compiled]:
    """Return the sides whose MLPs read the neurons that random predictors select."""
    mlps = find_model_mlps(model, (ids[:, :4],), {})
    prune(model, progress=False)
    predictors = random_predictors(mlps, config.layer_rates, config.rank)
    found = {}
    for name in config.sparsity:
        compiled = compile_model(
            model, contextual=predictors, inner="eager", progress=False, format=FORMATS[name]
        )
        compiled(ids[:, :1])
        shares = zip(mlps, config.layer_rates, strict=True)
        skipped = sum((1 - rate) * _mlp_bytes(mlp) for mlp, rate in shares) * _kept_share(compiled)
        found[name] = Compiled(compiled, stored + _added(compiled) - round(skipped))
    return found


def _kept_share(side: CompiledModel) -> float:
    """Return the bytes of the contextual layers over those of the dense ones."""
    layers = [layer for layer in side.report.layers if layer.decision == "contextual"]
    return sum(layer.bytes for layer in layers) / max(sum(layer.bytes_dense for layer in layers), 1)


def _mlp_bytes(mlp: ModelMlp) -> int:
    layers = [weight for weight in (mlp.gate, mlp.up, mlp.down) if weight is not None]
    return sum(weight.nbytes for weight in layers)


def _by_thresholds(
    config: BenchConfig, model: PreTrainedModel, ids: Tensor, stored: int
) -> dict[str, Compiled]:
    """Return the sides whose linear layers leave out equal shares of their inputs."""
    window = torch.randint(0, config.vocab, (1, CALIBRATION), device=ids.device)
    options = ChoiceOptions(None, None, CALIBRATION, CALIBRATION, DEFAULT_SKIP, 0)
    choice = ThresholdChoice(model, [window], options)
    choice.observe()
    size = next(model.parameters()).itemsize
    found = {}
    for share in config.left_out:
        thresholds = choice.thresholds(choice.equal(share), "tokens")
        compiled = compile_model(model, contextual=thresholds, inner="eager", progress=False, format=None)
        compiled(ids[:, :1])
        skipped = share * float(choice.weights.sum()) * size
        found[f"{share:.0%} left out"] = Compiled(compiled, stored - round(skipped))
    return found


def _added(side: CompiledModel) -> int:
    """Return a compiled model's bytes beyond the dense layers'; negative for a saving."""
    return sum(layer.bytes - layer.bytes_dense for layer in side.report.layers)


def _llama(config: BenchConfig, device: torch.device) -> PreTrainedModel:
    shape = {
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocab,
        "tie_word_embeddings": True,
        "max_position_embeddings": max(config.prompts) + config.tokens + 1,
    }
    with torch.device(device):
        return from_config("a Llama", make_config("LlamaConfig", shape), dtype=getattr(torch, config.dtype))


def _rows(
    tokens: int,
    answers: Mapping[str, list[tuple[float, list[float]]]],
    weights: Mapping[str, int],
    floors: Mapping[str, float],
    device: torch.device,
) -> Iterator[dict[str, object]]:
    medians: dict[str, tuple[float, float]] = {}
    for name, found in answers.items():
        firsts, steps = [first for first, _ in found], [s for _, more in found for s in more]
        medians[name] = statistics.median(firsts), statistics.median(steps)
        yield {
            "prompt": tokens,
            "side": name,
            **_percentiles("ttft_ms", firsts),
            **_percentiles("token_ms", steps),
            "floor_ms": round(1e3 * floors[name], 3),
            "tokens_per_second": round(1 / medians[name][1], 2),
            "ttft_speedup": round(medians["dense"][0] / medians[name][0], 3),
            "speedup": round(medians["dense"][1] / medians[name][1], 3),
            "weights_mb": round(weights[name] / 1e6, 1),
            "process_mb": round(_memory(device) / 1e6, 1),
        }


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {50: statistics.median(ordered), 90: ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]}
    return {f"{name}_p{p}": round(1e3 * value, 3) for p, value in at.items()}


def _memory(device: torch.device) -> int:
    """Return the bytes of both models together, on the GPU or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if not _PAGE_FILE.exists():
        return 0
    import resource

    return int(_PAGE_FILE.read_text().split()[1]) * resource.getpagesize()


def table(result: Document, width: int = 130) -> str:
    """Return the rows of a result as text, and why they ran so."""
    names = list(result["rows"][0])
    columns: list[Column] = [
        (name.replace("_", " "), "left" if name == "side" else "right") for name in names
    ]
    return text_table(
        "", columns, [list(map(str, row.values())) for row in result["rows"]], result["policy"], width
    )
