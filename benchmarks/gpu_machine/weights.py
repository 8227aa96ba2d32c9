"""Write the weights of a .gguf file as transformers does: `weights.py FOLDER FILE`, a file of the folder."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM


def main(folder: str, file: str) -> None:
    """Dequantise to float32 and save beside the tokenizer that is there."""
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    del model.config.quantization_config
    model.hf_quantizer = None  # else save_pretrained refuses a "quantised" model
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
