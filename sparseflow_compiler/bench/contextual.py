"""Benchmark a Llama of a given shape, dense and contextual: first token, tokens a second, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparseflow.api.compile import compile as compile_model
from sparseflow.api.compiled import CompiledModel
from sparseflow.contextual.model_mlps import ModelMlp, find_model_mlps
from sparseflow.contextual.predictors import MlpPredictor, Predictors
from sparseflow.contextual.selection import count_of
from sparseflow.contextual.training import usual_rank
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.argument_names import with_cache
from sparseflow.integrations.transformers.models import from_config, make_config
from sparseflow.integrations.transformers.static_caches import static_cache
from sparseflow.pruning import prune
from sparseflow.runtime.contextual import Predictor
from sparseflow.support.documents import Document
from sparseflow.support.progress import Step
from sparseflow.support.text_table import Column, text_table

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import ModelOutput, PreTrainedModel

_FORMATS: dict[str, str | None] = {"contextual": None, "contextual+2:4": "2:4"}
"""The sparse sides of the benchmark, with the weight format of each."""
_PAGE_FILE = Path("/proc/self/statm")


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
        if not self.sparsity or not set(self.sparsity) <= set(_FORMATS):
            raise _wrong("sparsity", self.sparsity, f"must be some of {', '.join(_FORMATS)}")
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
        lists: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        if isinstance(lists.get("rates"), (int, float)):
            lists["rates"] = (lists["rates"],)
        return cls(**lists)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _wrong(name: str, value: object, rule: str) -> ArgumentError:
    return ArgumentError(f"bench configuration, {name}={value!r}", rule)


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


@torch.no_grad()
def bench_contextual(config: BenchConfig, device: torch.device, step: Step) -> Document:
    """Measure a Llama with random weights, dense eager beside contextual, prompt by prompt in turns.

    Args:
        config: what to measure.
        device: where.
        step: called after each answer.

    Returns:
        ``config``; ``rows``, one a prompt and side, times in milliseconds with 50th and 90th percentiles; and
        ``policy``: what the compiler measured for the MLPs, once for each different one.
    """
    model = _llama(config, device)
    length = max(config.prompts) + config.tokens + 1
    ids = torch.randint(0, config.vocab, (1, max(config.prompts)), device=device)
    mlps = find_model_mlps(model, (ids[:, :4],), {})
    prune(model, progress=False)
    predictors = random_predictors(mlps, config.layer_rates, config.rank)
    compiled: dict[str, CompiledModel] = {
        name: compile_model(
            model,
            contextual=predictors,
            inner="eager",
            progress=False,
            format=_FORMATS[name],
        )
        for name in config.sparsity
    }
    sides = [Side(name, run, model, length) for name, run in [("dense", model), *compiled.items()]]
    dense_bytes = sum(tensor.nbytes for tensor in model.parameters())
    total = len(config.prompts) * config.repeats * len(sides)
    rows: list[dict[str, object]] = []
    done = 0
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
        weights = {name: dense_bytes + _added(side) for name, side in compiled.items()}
        rows += _rows(tokens, answers, {"dense": dense_bytes, **weights}, device)
    reports = [layer for side in compiled.values() for layer in side.report.layers]
    policies = {layer.reason: None for layer in reports if layer.decision != "dense"}
    return {"config": asdict(config), "rows": rows, "policy": list(policies)}


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
