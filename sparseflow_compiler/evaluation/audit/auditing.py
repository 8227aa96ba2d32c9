"""`sparseflow.evaluation.audit`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.evaluation.audit.answers import Answers, Speaker, ask
from sparseflow.evaluation.audit.pattern_check import PatternCheck, check_patterns
from sparseflow.evaluation.audit.text_scores import TextScores, cut, score_texts
from sparseflow.evaluation.audit.usual_texts import usual_texts
from sparseflow.evaluation.windows import as_tokens
from sparseflow.integrations.transformers.argument_names import generates
from sparseflow.integrations.transformers.models import from_config
from sparseflow.runtime.calling.inference import device_of
from sparseflow.support.progress import progress_bars
from sparseflow.support.version import __version__

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class AuditOptions:
    """How much is measured.

    Attributes:
        window: tokens of a window of text.
        windows: of each text, at most.
        prompts: of the 200 prompts, and of the 100 questions, at most.
        new_tokens: of an answer, at most.
        batch: windows or prompts at a time.
        seed: of the resampling that intervals are made by.
    """

    window: int = 512
    windows: int = 16
    prompts: int = 200
    new_tokens: int = 64
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"window": 2, "windows": 1, "prompts": 1, "new_tokens": 1, "batch": 1, "seed": 0}
        for name, low in least.items():
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= low):
                raise ArgumentError(
                    f"audit({name}={getattr(self, name)!r})", f"must be a whole number ≥ {low}"
                )


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        about: models, device, options, versions.
        patterns: of the weights.
        texts: perplexity and agreement.
        answers: to prompts and questions.
        minutes: wall time of each part.
    """

    about: dict[str, object]
    patterns: PatternCheck
    texts: TextScores
    answers: Answers
    minutes: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        parts = {name: getattr(self, name).to_dict() for name in ("patterns", "texts", "answers")}
        return {"about": self.about, **parts, "minutes": self.minutes}

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def audit(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    dense: nn.Module | None = None,
    *,
    claims: Mapping[str, str] | None = None,
    texts: Mapping[str, object] | None = None,
    options: AuditOptions | None = None,
    about: Mapping[str, object] | None = None,
    progress: bool | None = None,
) -> AuditReport:
    """Measure what a causal language model still can, and check that its weights are what it claims.

    Args:
        model: of transformers, in evaluation mode.
        tokenizer: of both models.
        dense: to compare with; None leaves out whatever compares.
        claims: the pattern, "n:m", of each layer that is said to be pruned.
        texts: text or 1-d token ids by name; None: three that come with Python.
        options: how much is measured.
        about: more to state in the report.
        progress: progress bars on stderr; ``None``: only on a terminal.

    Raises:
        ArgumentError: a model can't generate or is in training mode, a text is too short, or a claim is no
            pattern.
        EvaluationError: logits are not finite.
    """
    how = options or AuditOptions()
    for name, one in (("model", model), ("dense", dense)):
        if one is not None and (not generates(one) or one.training):
            rule = "is in training mode" if one.training else "is no language model that generates"
            raise ArgumentError(f"audit({name})", rule, "pass a causal language model in evaluation mode")
    minutes: dict[str, float] = {}
    with progress_bars(progress) as bars:
        begun = time.monotonic()
        patterns = check_patterns(model, claims or {}, dense if dense is not None else _architecture(model))
        minutes["patterns"] = (time.monotonic() - begun) / 60
        begun = time.monotonic()
        windows = {
            name: cut(_tokens(text, tokenizer), how.window, how.windows)
            for name, text in (texts or usual_texts()).items()
        }
        scores = score_texts(model, dense, windows, how.batch, how.seed, bars.stage("texts"))
        minutes["texts"] = (time.monotonic() - begun) / 60
        begun = time.monotonic()
        speakers = [
            Speaker(cast("PreTrainedModel", one), tokenizer, how.batch)
            for one in (model, dense)
            if one is not None
        ]
        other = speakers[1] if dense is not None else None
        answers = ask(speakers[0], other, how.prompts, how.new_tokens, how.seed, bars.stage("answers"))
        minutes["answers"] = (time.monotonic() - begun) / 60
    device = device_of(model)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts: dict[str, object] = {
        "device": name,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }
    facts |= {"sparseflow": __version__, "torch": str(torch.__version__), **asdict(how), **(about or {})}
    return AuditReport(facts, patterns, scores, answers, minutes)


def _tokens(text: object, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    if isinstance(text, str):
        text = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return as_tokens(text)


def _architecture(model: nn.Module) -> nn.Module:
    """Return a model of the same configuration without weights."""
    with torch.device("meta"):
        return from_config(type(model).__name__, model.config)
