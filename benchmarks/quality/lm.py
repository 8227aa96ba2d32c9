"""The small language model that lm_train.py trains and lm_quality.py prunes, and its tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

LENGTH = 512
"""Tokens in a training sequence and in a window of the evaluation."""

TRAINING = "training.json"
"""Beside a trained model: how many tokens training took, repeats counted."""


@dataclass(frozen=True)
class Scale:
    """How much of everything a run takes.

    Attributes:
        hidden: the model's width; a head has 64 features, or 16 in a tiny model.
        layers: decoder layers.
        intermediate: the MLPs' width.
        steps: of training.
        batch: sequences in one step.
        length: tokens in one sequence.
        lr: the highest learning rate of training.
        finetune_lr: of finetuning.
        finetune_batch: sequences in one step of finetuning.
        calibration: sequences to calibrate on.
        train: tokens of the training file to use, at most.
        heldout: tokens to evaluate on, at most.
    """

    hidden: int = 512
    layers: int = 8
    intermediate: int = 1408
    steps: int = 4000
    batch: int = 64
    length: int = LENGTH
    lr: float = 1.5e-3
    finetune_lr: float = 1e-3
    finetune_batch: int = 16
    calibration: int = 128
    train: int = 1 << 30
    heldout: int = 1 << 18

    def model(self, vocabulary: int) -> LlamaForCausalLM:
        """A Llama with random weights, float32."""
        head = 64 if self.hidden >= 256 else 16
        config = LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // head,
            num_key_value_heads=self.hidden // head // 2,
            max_position_embeddings=1024,
            vocab_size=vocabulary,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
        return LlamaForCausalLM(config)


FULL = Scale()
TINY = Scale(
    hidden=64,
    layers=2,
    intermediate=176,
    steps=40,
    batch=8,
    length=64,
    lr=5e-3,
    finetune_lr=3e-3,
    finetune_batch=4,
    calibration=8,
    train=40_000,
    heldout=1000,
)
"""Seconds on a CPU: shows that the scripts run, and nothing about quality."""


@dataclass(frozen=True)
class Corpus:
    """Token ids of corpus.py, uint16: ``[tokens]`` each; `vocabulary` is one more than the greatest id."""

    train: np.ndarray
    heldout: np.ndarray
    vocabulary: int

    @classmethod
    def load(cls, folder: Path, scale: Scale) -> Corpus:
        """Of a folder that corpus.py wrote."""
        train, heldout = (np.load(folder / f"{name}.npz")["tokens"] for name in ("train", "heldout"))
        vocabulary = int(max(train.max(), heldout.max())) + 1
        return cls(train[: scale.train], heldout[: scale.heldout], -(-vocabulary // 64) * 64)

    def sequences(self, seed: int, count: int, length: int, share: float = 1.0) -> Tensor:
        """Sequences ``[count, length]`` int64 from random places of the first `share` of the training tokens.

        While there are enough, no two overlap.
        """
        rows = int(len(self.train) * share) // length
        generator = np.random.default_rng(seed)
        passes = [generator.permutation(rows) for _ in range(-(-count // rows))]
        starts = np.concatenate(passes)[:count] * length
        return torch.from_numpy(
            np.stack([self.train[start : start + length] for start in starts]).astype(np.int64)
        )


def batches(sequences: Tensor, size: int) -> Sequence[Tensor]:
    """Sequences in batches ``[size, length]``; what is left over is dropped."""
    return [sequences[at : at + size] for at in range(0, len(sequences) - size + 1, size)]


def model_folder(corpus: Path, seed: int) -> Path:
    """Where the model trained under a seed is."""
    return corpus / f"model-{seed}"


def device_name(device: torch.device) -> str:
    """As result files call it."""
    from _measure import cpu_name

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
