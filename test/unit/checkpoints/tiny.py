"""A tiny Llama."""

import torch
import transformers


def llama(dtype: torch.dtype = torch.float32, **options) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=options.get("num_hidden_layers", 2),
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        max_position_embeddings=64,
        tie_word_embeddings=options.get("tie_word_embeddings", False),
        attention_bias=True,
    )
    return transformers.LlamaForCausalLM(config).to(dtype).eval()


LAYERS = 14
"""Linear layers but for the head."""
