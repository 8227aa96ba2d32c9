"""Evaluate language models: perplexity, and agreement with the dense model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, EvaluationError
from sparseflow.evaluation.windows import Window, as_tokens, windows
from sparseflow.finetune.logit_divergence import kl
from sparseflow.runtime.calling.inference import device_of
from sparseflow.support.progress import progress_bars

_LOGITS_AT_ONCE = 1 << 28
"""Logits of one forward are taken in float32 in pieces of at most about so many."""


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a model on a stream of tokens.

    Attributes:
        perplexity: exp of `nll`.
        nll: mean negative log-likelihood of the scored tokens, nats.
        tokens: how many tokens were scored; `windows` says which.
        window: tokens in a window.
        stride: tokens from the begin of a window to the next one's.
    """

    perplexity: float
    nll: float
    tokens: int
    window: int
    stride: int

    def bits_per_byte(self, tokens: int, text_bytes: int) -> float:
        """Return bits per byte for a text of so many tokens and bytes, at the mean loss."""
        return self.nll / math.log(2) * tokens / text_bytes

    def to_dict(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Agreement:
    """The agreement of a model's next-token predictions with the dense one's.

    Attributes:
        top1: the share of scored tokens for which both give the same token the highest probability.
        kl: mean KL(dense ‖ model) of the next token's distribution, nats.
        kl_p99: its 99th percentile over the scored tokens.
        tokens: how many tokens were scored, as `perplexity` does.
    """

    top1: float
    kl: float
    kl_p99: float
    tokens: int

    def to_dict(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        return asdict(self)


def perplexity(
    model: nn.Module,
    tokens: object,
    *,
    window: int = 1024,
    stride: int | None = None,
    batch: int = 8,
    autocast: torch.dtype | None = None,
    progress: bool | None = None,
) -> Perplexity:
    """Measure the perplexity of a causal language model on tokens; `windows` defines which are scored.

    Args:
        model: takes ``input_ids`` ``[batch, tokens]`` and returns ``logits``; in evaluation mode.
        tokens: ids, 1-d.
        window: the longest context plus one.
        stride: tokens from one window to the next; by default half a window.
        batch: windows at a time.
        autocast: a dtype to run the model in under autocast.
        progress: a progress bar on stderr; ``None``: only on a terminal.

    Raises:
        ArgumentError: tokens, window or stride don't fit; the model is in training mode.
        EvaluationError: the model returns no logits, or some that are not finite.
    """
    total, count = 0.0, 0
    stride = stride or max(1, window // 2)
    for (logits,), targets in _predictions([model], tokens, window, stride, batch, autocast, progress):
        total += float(F.cross_entropy(logits, targets, reduction="sum").double())
        count += len(targets)
    return Perplexity(math.exp(total / count), total / count, count, window, stride)


def agreement(
    model: nn.Module,
    dense: nn.Module,
    tokens: object,
    *,
    window: int = 1024,
    stride: int | None = None,
    batch: int = 8,
    autocast: torch.dtype | None = None,
    progress: bool | None = None,
) -> Agreement:
    """Measure agreement with the dense model; arguments and errors as for `perplexity`."""
    same, parts = 0, []
    stride = stride or max(1, window // 2)
    pairs = _predictions([model, dense], tokens, window, stride, batch, autocast, progress)
    for (mine, theirs), _ in pairs:
        same += int((mine.argmax(-1) == theirs.argmax(-1)).sum())
        parts.append(kl(mine, theirs))
    every = torch.cat(parts).double()
    # By sorting: torch.quantile refuses more than 16 million values.
    p99 = every.kthvalue(math.ceil(0.99 * len(every))).values
    return Agreement(same / len(every), float(every.mean()), float(p99), len(every))


@torch.no_grad()
def _predictions(
    models: list[nn.Module],
    tokens: object,
    window: int,
    stride: int,
    batch: int,
    autocast: torch.dtype | None,
    progress: bool | None,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield each model's logits ``[scored, classes]`` float32 and the actual tokens ``[scored]``."""
    stream = as_tokens(tokens)
    parts = windows(len(stream), window, stride)
    for model in models:
        _require_evaluation(model)
    with progress_bars(progress) as bars:
        bar = bars.stage("evaluate")
        start = 0
        while start < len(parts):
            group = [w for w in parts[start : start + batch] if _length(w) == _length(parts[start])]
            ids = torch.stack([stream[w.start : w.end] for w in group])
            every = [logits_of(model, ids, autocast) for model in models]
            for row, part in enumerate(group):
                first = part.scored - part.start
                step = max(1, _LOGITS_AT_ONCE // every[0].shape[-1])
                for low in range(first, _length(part), step):
                    high = min(low + step, _length(part))
                    rows = [logits[row, low - 1 : high - 1].float() for logits in every]
                    yield rows, ids[row, low:high].to(rows[0].device)
            start += len(group)
            bar(start, len(parts), "windows")


def _length(window: Window) -> int:
    return window.end - window.start


def logits_of(model: nn.Module, ids: Tensor, autocast: torch.dtype | None) -> Tensor:
    """Return a model's logits ``[batch, tokens, classes]`` for token ids ``[batch, tokens]``.

    Raises:
        ArgumentError: the model doesn't know a token.
        EvaluationError: it fails, or its logits are missing or not finite.
    """
    device = device_of(model)
    _require_vocabulary(model, ids)
    try:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            output = model(input_ids=ids.to(device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise EvaluationError(
            type(model).__name__,
            f"fails on input_ids {list(ids.shape)}: {type(error).__name__}: {error}",
            "pass a smaller window or batch",
        ) from error
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        raise EvaluationError(
            type(model).__name__,
            "gives no logits [batch, tokens, classes]",
            "evaluate a causal language model",
        )
    if not logits.isfinite().all():
        raise EvaluationError(
            type(model).__name__, "its logits hold NaN or Inf", "run it in bfloat16 or float32, or repair it"
        )
    return logits


def _require_vocabulary(model: nn.Module, ids: Tensor) -> None:
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    rows = getattr(embedding, "num_embeddings", None)
    if rows is not None and int(ids.max()) >= rows:
        raise ArgumentError(
            "tokens", f"hold id {int(ids.max())}, and the model knows {rows}", "use the model's own tokenizer"
        )


def _require_evaluation(model: nn.Module) -> None:
    if model.training:
        raise ArgumentError(type(model).__name__, "is in training mode: dropout would score", "model.eval()")
