"""The models of benchmarks: shapes with random weights, made where they run, and real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from sparseflow.integrations.transformers.argument_names import with_cache
from sparseflow.integrations.transformers.models import from_folder
from sparseflow.integrations.transformers.static_caches import static_cache

Inputs = Callable[[int], dict[str, Any]]

LLAMA: dict[str, dict[str, int]] = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "small": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}


@dataclass(frozen=True)
class Place:
    """Where models are made, and in which dtype."""

    device: str
    dtype: torch.dtype


def make(model_class: Any, config: Any, place: Place) -> Any:
    """A model with random weights, never anywhere but on its device."""
    config.dtype = place.dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(place.dtype)
    try:
        with torch.device(place.device):
            return model_class(config).eval()
    finally:
        torch.set_default_dtype(before)


def llama(size: str, place: Place, layers: int | None = None) -> Any:
    """A Llama 3 of that size; with fewer layers the vocabulary shrinks by as much."""
    shape = dict(LLAMA[size])
    if layers is not None:
        shape["vocab_size"] = shape["vocab_size"] * layers // shape["num_hidden_layers"]
        shape["num_hidden_layers"] = layers
    config = tf.LlamaConfig(rope_theta=500000.0, max_position_embeddings=8192, **shape)
    return make(tf.LlamaForCausalLM, config, place)


def real(path: Path, dtype: torch.dtype) -> Any:
    """The causal language model of a folder that transformers reads, or of a GGUF file, dequantised."""
    if path.suffix != ".gguf":
        return from_folder(path, dtype)
    model = tf.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return model.eval()


def tokens(batch: int, length: int, vocabulary: int, device: str) -> torch.Tensor:
    """Random token ids `[batch, length]`."""
    return torch.randint(3, vocabulary, (batch, length), device=device)


def small(
    place: Place, tiny: bool, most_layers: int | None = None
) -> dict[str, tuple[Callable[[], Any], Inputs]]:
    """Models that must never be slower, and their inputs for a batch; 128 tokens, or an image.

    Args:
        place: where they are made.
        tiny: one layer, short inputs and a small vocabulary.
        most_layers: deeper models are cut to so many.
    """
    length = 16 if tiny else 128

    def layers(count: int) -> dict[str, Any]:
        return {"num_hidden_layers": 1 if tiny else min(count, most_layers or count)}

    def text(batch: int) -> dict[str, Any]:
        return {"input_ids": tokens(batch, length, 1000, place.device)}

    def decoder(batch: int) -> dict[str, Any]:
        return {**text(batch), "use_cache": False}

    def image(batch: int) -> dict[str, Any]:
        return {"pixel_values": torch.randn(batch, 3, 224, 224, device=place.device, dtype=place.dtype)}

    qwen = tf.Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936 // (50 if tiny else 1),
        tie_word_embeddings=True,
        **layers(28),
    )
    tinyllama = tf.LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32000 // (20 if tiny else 1),
        **layers(22),
    )
    minilm = tf.BertConfig(hidden_size=384, intermediate_size=1536, num_attention_heads=12, **layers(6))
    gpt2 = tf.GPT2Config(n_layer=layers(12)["num_hidden_layers"])
    return {
        "bert-base": (lambda: make(tf.BertModel, tf.BertConfig(**layers(12)), place), text),
        "vit-b": (lambda: make(tf.ViTModel, tf.ViTConfig(**layers(12)), place), image),
        "gpt2": (lambda: make(tf.GPT2LMHeadModel, gpt2, place), decoder),
        "qwen3-0.6b": (lambda: make(tf.Qwen3ForCausalLM, qwen, place), decoder),
        "minilm": (lambda: make(tf.BertModel, minilm, place), text),
        "tinyllama": (lambda: make(tf.LlamaForCausalLM, tinyllama, place), decoder),
    }


class Decoding:
    """Steps of one token over a static cache that is half full.

    Args:
        model: whose cache it is.
        run: the model, or what stands for it.
        batch: sequences.
        length: tokens that the cache holds.
    """

    def __init__(self, model: Any, run: Any, batch: int, length: int) -> None:
        self._run, self.length = run, length
        self._cache = static_cache(model, length, batch)
        ids = tokens(batch, 1, model.config.vocab_size, model.device.type)
        self.inputs: dict[str, Any] = {"input_ids": ids, "use_cache": True, **with_cache(model, self._cache)}
        generator = torch.Generator(model.device).manual_seed(0)
        for layer in self._cache.layers:
            layer.keys.normal_(generator=generator)
            layer.values.normal_(generator=generator)
        self._steps = 0

    def __call__(self) -> Any:
        """One step; what it costs doesn't depend on where in the cache it writes."""
        if self._steps % (self.length // 2) == 0:
            for layer in self._cache.layers:
                layer.cumulative_length.fill_(self.length // 2)
        self._steps += 1
        return self._run(**self.inputs)
