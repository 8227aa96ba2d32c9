"""Small random transformers models, each with calls of several batch sizes and lengths."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.pytorch_utils import Conv1D

import sparseflow as sf
from sparseflow.integrations.transformers.argument_names import cache_argument
from sparseflow.reports.report import Report

Call = tuple[tuple[Any, ...], dict[str, Any]]

CACHE = cache_argument(tf.LlamaForCausalLM)
"""What models call the cache that they take: it depends on the version of transformers."""

VOCABULARY = 96
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
IMAGE = {
    "image_size": 16,
    "patch_size": 4,
    **{k: v for k, v in SMALL.items() if "vocab" not in k and "max" not in k},
}

TEXT: dict[str, tuple[type, Callable[[], Any]]] = {
    "llama": (tf.LlamaForCausalLM, lambda: tf.LlamaConfig(**GROUPED)),
    "qwen3": (tf.Qwen3ForCausalLM, lambda: tf.Qwen3Config(head_dim=8, **GROUPED)),
    "mistral": (tf.MistralForCausalLM, lambda: tf.MistralConfig(sliding_window=8, **GROUPED)),
    "gemma3": (tf.Gemma3ForCausalLM, lambda: tf.Gemma3TextConfig(head_dim=8, sliding_window=8, **GROUPED)),
    "phi3": (tf.Phi3ForCausalLM, lambda: tf.Phi3Config(pad_token_id=0, eos_token_id=1, **GROUPED)),
    "gpt2": (
        tf.GPT2LMHeadModel,
        lambda: tf.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, vocab_size=96, n_positions=64, bos_token_id=1, eos_token_id=1
        ),
    ),
    "opt": (tf.OPTForCausalLM, lambda: tf.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, **SMALL)),
    "falcon": (tf.FalconForCausalLM, lambda: tf.FalconConfig(**SMALL)),
    "bert": (tf.BertModel, lambda: tf.BertConfig(**SMALL)),
    "roberta": (tf.RobertaForMaskedLM, lambda: tf.RobertaConfig(**SMALL)),
    "t5 encoder": (
        tf.T5EncoderModel,
        lambda: tf.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=96),
    ),
    "mixtral": (tf.MixtralForCausalLM, lambda: tf.MixtralConfig(num_local_experts=4, **GROUPED)),
    "deberta": (tf.DebertaV2Model, lambda: tf.DebertaV2Config(**SMALL)),
    "gpt-neox": (tf.GPTNeoXForCausalLM, lambda: tf.GPTNeoXConfig(**SMALL)),
    "bloom": (
        tf.BloomForCausalLM,
        lambda: tf.BloomConfig(n_layer=2, n_head=4, hidden_size=32, vocab_size=96),
    ),
}


# Older exporters make a batch of one a program of its own.
ONE = () if torch.__version__ < "2.13" else (1,)


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length))


def fewest(name: str) -> int:
    """How many layers show all that a text model has, since test_transformers.py runs two of each.

    Tracing a second one takes as long again. Layers of gemma3 and T5 differ by their place; llama stands for
    caches and residuals that go from layer to layer.
    """
    return 2 if name in ("llama", "gemma3", "t5 encoder") else 1


def text_model(name: str, layers: int = 2) -> torch.nn.Module:
    model_class, make = TEXT[name]
    config = make()
    if layers != config.num_hidden_layers:
        config.num_hidden_layers = layers
        if kinds := getattr(config, "layer_types", None):
            config.layer_types = kinds[:layers]
    return model_class(config).eval()


def word_tokenizer(template: str | None = None) -> tf.PreTrainedTokenizerFast:
    """A tokenizer of a text_model's vocabulary: the words w1, w2 …, and w0 for all others."""
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, "w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="w0")
    tokenizer.chat_template = template
    return tokenizer


def sharp(model: torch.nn.Module) -> torch.nn.Module:
    """Make the predictions of a random model less even, in place; return it."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def _text(name: str, layers: int) -> tuple[torch.nn.Module, list[Call]]:
    return text_model(name, layers), [
        ((), {"input_ids": tokens(*size)}) for size in ((2, 5), *((n, 6) for n in ONE), (3, 4))
    ]


def _vit() -> tuple[torch.nn.Module, list[Call]]:
    model = tf.ViTModel(tf.ViTConfig(**IMAGE)).eval()
    return model, [((torch.randn(batch, 3, 16, 16),), {}) for batch in (2, *ONE, 3)]


def _clip() -> tuple[torch.nn.Module, list[Call]]:
    text = {**SMALL, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=16)).eval()
    return model, [
        ((), {"input_ids": tokens(texts, 7), "pixel_values": torch.randn(images, 3, 16, 16)})
        for texts, images in ((2, 4), *((3, n) for n in ONE), (4, 2))
    ]


def _whisper_encoder() -> tuple[torch.nn.Module, list[Call]]:
    config = tf.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=20,
    )
    return WhisperEncoder(config).eval(), [((torch.randn(batch, 8, 40),), {}) for batch in (2, 3)]


OTHERS: dict[str, Callable[[], tuple[torch.nn.Module, list[Call]]]] = {
    "vit": _vit,
    "clip": _clip,
    "whisper encoder": _whisper_encoder,
}
NAMES = [*TEXT, *OTHERS]


def model_and_calls(name: str, layers: int = 2) -> tuple[torch.nn.Module, list[Call]]:
    """A model in evaluation mode, and calls that one capture of the first must serve.

    Args:
        name: one of `NAMES`.
        layers: of a text model; see `fewest`.
    """
    return _text(name, layers) if name in TEXT else OTHERS[name]()


def pruned_as(model: nn.Module, report: Report) -> nn.Module:
    """A copy of the model with the weights pruned that the report calls sparse."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in report.layers:
            if layer.decision == "sparse":
                module = twin.get_submodule(layer.name)
                turned = isinstance(module, Conv1D)
                weight = sf.prune_24(module.weight.t() if turned else module.weight)
                module.weight.copy_(weight.t() if turned else weight)
    return twin
