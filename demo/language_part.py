"""The demo's language model: SmolLM2 answers densely and by activation sparsity, and what that costs it."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from answers import Answer, answer, answers, prompt_ids
from costs import Cost, LeavingOut, cost, predicted, pruned_at_once
from keeping import Say, demo_dir, keep, keep_json
from prose import language_reference
from smollm2 import make_folder
from torch import Tensor

import sparseflow as sf
from sparseflow.errors import UnprunedWarning
from sparseflow.integrations.transformers.models import from_folder, read_tokenizer
from sparseflow.integrations.transformers.own_text import own_tokens

PROMPTS = (
    "What is the capital of France?",
    "What does a compiler do? Answer in one sentence.",
    "Give me two tips for sleeping well.",
)
RATE = 0.3
"""The share of the weights that a token doesn't read."""
TOKENS = 40
"""Tokens of an answer."""
CALIBRATION, OWN_WINDOW = 1024, 160
"""Tokens that the model writes to choose thresholds on, and the most of one answer."""
TEST = 1024
"""Tokens of text to score."""


@dataclass(frozen=True)
class Side:
    """One way of running the language model.

    Attributes:
        name: for the table.
        answers: to `PROMPTS`.
        held: bytes of its weights.
        read: bytes of weights that a token reads, about.
    """

    name: str
    answers: list[Answer]
    held: int
    read: int


@dataclass(frozen=True)
class LanguageResult:
    """What the language model showed.

    Attributes:
        sides: transformers, the compiled model, the compiled model that leaves inputs out.
        rate: the share of the layers' weights that the last leaves out for a token.
        cost: what that costs.
        at_once: what 2:4 in one shot costs.
        babble: what a model so pruned answers to the first prompt.
        written: tokens that the model wrote for its calibration.
    """

    sides: tuple[Side, Side, Side]
    rate: float
    cost: Cost
    at_once: Cost
    babble: str
    written: int


class LanguagePart:
    """SmolLM2 and what is made of it, kept in a folder.

    Args:
        folder: of results.
        say: told of every step that takes long.
    """

    PARTS = ("written.json", "thresholds.json", "costs.json", "smollm2-dense", "smollm2-sparse")

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder, self._say = folder, say
        model = demo_dir() / "smollm2-135m-instruct"
        if not model.exists():
            say("downloading SmolLM2-135M-Instruct (93 MB) and converting it, once")
        keep(model, make_folder)
        self.model: Any = from_folder(model, torch.float32).eval()
        self.tokenizer: Any = read_tokenizer(model)

    def make(self) -> None:
        """Choose thresholds, measure what sparsity costs, and compile both forms, unless that is kept."""
        self._written()
        thresholds = self._thresholds()
        self._costs()
        self._compile("dense")
        self._compile("sparse", contextual=thresholds, format=None)

    def result(self) -> LanguageResult:
        """Let all sides answer, and return that with what was made."""
        dense, sparse = (sf.load(self._folder / f"smollm2-{name}") for name in ("dense", "sparse"))
        thresholds, lost = self._thresholds(), self._costs()
        self._say(f"answering {len(PROMPTS)} prompts, three ways in turns")
        given = answers(
            {
                "transformers": self.model.generate,
                "dense": dense.generate,
                "sparse": sparse.generate,
            },
            self.tokenizer,
            PROMPTS,
            TOKENS,
        )
        held = sum(weight.nbytes for weight in self.model.parameters())
        left = sum(4 * one.shape[0] * one.shape[1] * one.rate for one in thresholds.values())
        sides = (
            Side("transformers, dense", given["transformers"], held, held),
            Side("SparseFlow, dense", given["dense"], held, held),
            Side("SparseFlow, sparse", given["sparse"], held, held - int(left)),
        )
        return LanguageResult(
            sides,
            thresholds.rate,
            Cost(**lost["sparse"]),
            Cost(**lost["at_once"]),
            lost["babble"],
            sum(part.shape[1] for part in self._written()),
        )

    def _written(self) -> list[Tensor]:
        """Return windows `[1, tokens]` of text that the model wrote."""

        def write() -> dict[str, Any]:
            self._say(f"the model writes {CALIBRATION} tokens to calibrate on")
            found = own_tokens(self.model, self.tokenizer, CALIBRATION, OWN_WINDOW, seed=0)
            return {"tokens": [part[0].tolist() for part in found]}

        return [torch.tensor([row]) for row in keep_json(self._folder / "written.json", write)["tokens"]]

    def _thresholds(self) -> sf.ActivationThresholds:
        path = self._folder / "thresholds.json"

        def choose(part: Path) -> None:
            self._say("choosing the threshold of each layer")
            sf.calibrate_activations(self.model, self._written(), rate=RATE, progress=False).save(part)

        keep(path, choose)
        return sf.ActivationThresholds.load(path)

    def _compile(self, name: str, **options: Any) -> None:
        def make(part: Path) -> None:
            self._say(f"compiling the model, {name}")
            compiled = sf.compile(self.model, progress=False, **options)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnprunedWarning)  # the dense side is meant to be
                compiled.generate(prompt_ids(self.tokenizer, PROMPTS[0]), max_new_tokens=3, do_sample=False)
            compiled.save(part)

        keep(self._folder / f"smollm2-{name}", make)

    def _costs(self) -> dict[str, Any]:
        def measure() -> dict[str, Any]:
            self._say("measuring what sparsity costs on other text")
            ids = self.tokenizer(language_reference(8 * TEST), return_tensors="pt")["input_ids"][0, :TEST]
            sparse = LeavingOut(self.model, self._thresholds(), ids[None, :64])
            dense = predicted(self.model, ids)
            found = {"sparse": dataclasses.asdict(cost(predicted(sparse, ids), dense))}
            self._say("pruning a copy to 2:4 in one shot, to see what that costs")
            pruned: Any = pruned_at_once(self.model, self._written())
            found["at_once"] = dataclasses.asdict(cost(predicted(pruned, ids), dense))
            return {**found, "babble": self._babble(pruned)}

        return keep_json(self._folder / "costs.json", measure)

    def _babble(self, pruned: Any) -> str:
        ids = prompt_ids(self.tokenizer, PROMPTS[0])
        return answer(pruned.generate, self.tokenizer, ids, TOKENS).text
