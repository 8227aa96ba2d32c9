"""What numbers in fp8 cost: perplexity of a small chat model in {bf16, fp8} × {dense, 2:4}.

Weights in e4m3 have a scale for each row (sparseflow.runtime.fp8.quantize_weight). With "fp8 x fp8" the rows
of x are in e4m3 too, as linear_fp8 multiplies many rows; with "weights" they stay as they are, as it
multiplies few. Products are of the dequantised numbers in float32, so that a figure is of the numbers and of
no kernel. 2:4 is pruned once, by SparseGPT, calibrated on text that the model writes itself. Perplexity is
over windows of 512 tokens, from their fifth on, of texts that nothing was calibrated on; the head stays in
the model's dtype.

    python benchmarks/quality/fp8_numbers.py MODEL TEXTS.json [--device cuda] [--results FOLDER]

MODEL is a folder of transformers or a file of llama.cpp (.gguf), TEXTS.json what `recover.py prepare` wrote.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, cpu_name, gpu_name, meta, write
from chat_model import load
from other_texts import WINDOW, perplexity

import sparseflow as sf
from sparseflow.integrations.transformers.own_text import own_tokens
from sparseflow.runtime.fp8 import quantize_rows, quantize_weight

PRODUCTS = ("bf16", "weights", "fp8 x fp8")


class Dequantized(nn.Module):
    """A linear layer over the numbers that its weight, and with ``rows`` its input, has in e4m3."""

    def __init__(self, layer: nn.Linear, rows: bool) -> None:
        super().__init__()
        self.weight: Tensor
        values, scales = quantize_weight(layer.weight.detach())
        self.register_buffer("weight", values.float() * scales)
        self.bias, self.rows = layer.bias, rows

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x · Wᵀ + bias`` in x's dtype; x ``[…, K]``."""
        wide = x.float()
        if self.rows:
            values, scales = quantize_rows(x)
            wide = values.float() * scales
        y = F.linear(wide, self.weight)
        return (y if self.bias is None else y + self.bias.float()).to(x.dtype)


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield every linear layer but the head, which stays as it is in what is compared."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield name, module


def in_fp8(model: nn.Module, rows: bool) -> nn.Module:
    """Return a copy whose layers are `Dequantized`."""
    twin = copy.deepcopy(model)
    for name, layer in list(layers_of(twin)):
        twin.set_submodule(name, Dequantized(layer, rows))
    return twin


def windows_of(tokenizer: Any, path: Path, most: int) -> dict[str, Tensor]:
    """Return windows ``[n, WINDOW]`` of each text in TEXTS.json."""
    found = {}
    for name, texts in json.loads(path.read_text()).items():
        rows = [tokenizer(text, add_special_tokens=False)["input_ids"][:WINDOW] for text in texts[:most]]
        found[name] = torch.tensor([row for row in rows if len(row) == WINDOW])
    return found


def rows_of(pattern: str, model: nn.Module, texts: dict[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Yield the perplexity of each text, by each kind of product."""
    for product in PRODUCTS:
        twin = model if product == "bf16" else in_fp8(model, product == "fp8 x fp8")
        with torch.inference_mode():
            found = {name: perplexity(twin, windows) for name, windows in texts.items()}
        for name, value in found.items():
            yield {"pattern": pattern, "product": product, "text": name, "perplexity": round(value, 4)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--windows", type=int, default=16, help="of each text, at most")
    parser.add_argument("--tokens", type=int, default=16384, help="to calibrate on")
    parser.add_argument("--method", default="sparsegpt", choices=["magnitude", "wanda", "ria", "sparsegpt"])
    parser.add_argument("--seed", type=int, default=0, help="of the text")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    return parser.parse_args()


def main() -> int:
    """Measure the dense and the pruned model by each kind of product; write after each of the two."""
    options, begun = parse(), time.monotonic()
    device = torch.device(options.device)
    model, tokenizer = load(options.model, torch.bfloat16)
    model.to(device)
    texts = {
        name: ids.to(device) for name, ids in windows_of(tokenizer, options.texts, options.windows).items()
    }
    on_gpu = device.type == "cuda"
    named = torch.cuda.get_device_name(device) if on_gpu else cpu_name()
    rows: list[dict[str, Any]] = []
    for pattern in ("dense", "2:4"):
        if pattern == "2:4":
            own = own_tokens(model, tokenizer, options.tokens, WINDOW, seed=options.seed)
            sf.prune(model, options.method, None if options.method == "magnitude" else own, progress=False)
        for row in rows_of(pattern, model, texts):
            rows.append(row | {"method": options.method if pattern == "2:4" else None, "seed": options.seed})
            print(rows[-1], f"{time.monotonic() - begun:.0f} s", flush=True)
        windows = {name: len(ids) for name, ids in texts.items()}
        head = meta(named, model=options.model.name, window=WINDOW, windows=windows, tokens=options.tokens)
        write(gpu_name("quality_fp8", named) if on_gpu else "quality_fp8_cpu", head, rows, options.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
