"""The layers whose tuned points are worth shipping, from the sizes of common models: `shapes_to_ship.json`.

    python tools/shapes_to_ship.py --write                    # the file anew
    python tools/shapes_to_ship.py --without TABLE.json       # what a table lacks, in the same form
    sparseflow tune --shapes tools/shapes_to_ship.json --folder DIR --deadline 500 --effort quick
    python tools/ship_tuned.py DIR/tuned-*.json               # into runtime/tuning/tables

q/k/v and gate/up are merged, as `sf.compile` does it. Under tensor parallelism q/k/v and gate/up are cut
along N, o and down along K. The most important come first: whole layers in the order of the models, then
halves, then quarters, of models from 7 billion parameters on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("shapes_to_ship.json")
LARGE = 3584  # the hidden size of models that are served on several GPUs


@dataclass(frozen=True)
class Sizes:
    """A model's sizes.

    Attributes:
        name: of the model.
        hidden: features of the residual stream.
        intermediate: of an MLP.
        heads: query heads.
        kv_heads: key and value heads.
        head: features of a head.
        gated: whether MLPs have a gate.
    """

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int = 128
    gated: bool = True

    def layers(self, ranks: int) -> Iterator[tuple[str, int, int]]:
        """The layers of a rank: what each is, N and K."""
        heads, kv_heads = self.heads // ranks, max(1, self.kv_heads // ranks)
        inner = self.intermediate // ranks
        yield "qkv", (heads + 2 * kv_heads) * self.head, self.hidden
        yield "o", self.hidden, heads * self.head
        yield ("gate_up", 2 * inner, self.hidden) if self.gated else ("up", inner, self.hidden)
        yield "down", self.hidden, inner


MODELS = (
    Sizes("Llama-3-8B, Mistral-7B", 4096, 14336, 32, 8),
    Sizes("Qwen2.5-7B", 3584, 18944, 28, 4),
    Sizes("Qwen3-8B", 4096, 12288, 32, 8),
    Sizes("Llama-3-70B", 8192, 28672, 64, 8),
    Sizes("Llama-3.2-1B", 2048, 8192, 32, 8, 64),
    Sizes("Llama-3.2-3B", 3072, 8192, 24, 8),
    Sizes("Qwen3-0.6B", 1024, 3072, 16, 8),
    Sizes("Qwen3-1.7B", 2048, 6144, 16, 8),
    Sizes("Qwen3-4B", 2560, 9728, 32, 8),
    Sizes("Gemma-2-9B", 3584, 14336, 16, 8, 256),
    Sizes("Gemma-3-4B", 2560, 10240, 8, 4, 256),
    Sizes("Gemma-3-12B", 3840, 15360, 16, 8, 256),
    Sizes("Phi-4, Phi-3-medium", 5120, 17920, 40, 10),
    Sizes("Phi-3-mini", 3072, 8192, 32, 32, 96),
    Sizes("Qwen3-14B", 5120, 17408, 40, 8),
    Sizes("Qwen3-32B", 5120, 25600, 64, 8),
    Sizes("Qwen2.5-14B", 5120, 13824, 40, 8),
    Sizes("Qwen2.5-32B", 5120, 27648, 40, 8),
    Sizes("Qwen2.5-72B", 8192, 29568, 64, 8),
    Sizes("Mistral-Small-24B", 5120, 32768, 32, 8),
    Sizes("Mistral-Nemo-12B", 5120, 14336, 32, 8),
    Sizes("Llama-2-7B", 4096, 11008, 32, 32),
    Sizes("Llama-2-13B", 5120, 13824, 40, 40),
    Sizes("Gemma-2-2B", 2304, 9216, 8, 4, 256),
    Sizes("Gemma-2-27B", 4608, 36864, 32, 16),
    Sizes("Gemma-3-27B", 5376, 21504, 32, 16),
    Sizes("Gemma-3-1B", 1152, 6912, 4, 1, 256),
    Sizes("TinyLlama-1.1B", 2048, 5632, 32, 4, 64),
    Sizes("Qwen2.5-0.5B", 896, 4864, 14, 2, 64),
    Sizes("Qwen2.5-1.5B", 1536, 8960, 12, 2),
    Sizes("Qwen2.5-3B", 2048, 11008, 16, 2),
    Sizes("BERT-base, ViT-B, GPT-2", 768, 3072, 12, 12, 64, gated=False),
    Sizes("MiniLM-L6", 384, 1536, 12, 12, 32, gated=False),
    Sizes("FLUX.1", 3072, 12288, 24, 24, gated=False),
    Sizes("PixArt, DiT-XL", 1152, 4608, 16, 16, 72, gated=False),
    Sizes("BERT-large, ViT-L", 1024, 4096, 16, 16, 64, gated=False),
)


def shapes() -> list[dict[str, Any]]:
    """The layers, each once, the most important first."""
    found: dict[tuple[int, int], list[str]] = {}
    for ranks in (1, 2, 4):
        for model in MODELS:
            if ranks == 1 or model.hidden >= LARGE:
                for what, n, k in model.layers(ranks):
                    part = f" 1/{ranks}" if ranks > 1 else ""
                    found.setdefault((n, k), []).append(f"{model.name}: {what}{part}")
    return [{"n": n, "k": k, "layers": layers} for (n, k), layers in found.items()]


def main(argv: Sequence[str]) -> int:
    """Write the file, or print what a table lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    parser.add_argument("--without", type=Path, help="print the layers that this table has no point of")
    options = parser.parse_args(argv)
    wanted = shapes()
    if options.without:
        rows = json.loads(options.without.read_text())["rows"]
        had = {(row["n"], row["k"]) for row in rows}
        wanted = [entry for entry in wanted if (entry["n"], entry["k"]) not in had]
    text = "[\n" + ",\n".join(map(json.dumps, wanted)) + "\n]\n"
    if options.write:
        FILE.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
