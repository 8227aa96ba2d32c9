"""Is a 2:4 core between two block-diagonal matrices (ARMOR) worth its bytes? SmolLM2's layers, form by form.

Each layer is brought into 2:4, 4:6 and 6:8 by SparseGPT, its kept weights fitted by conjugate gradients, and,
from that 2:4, into A · S · B with blocks of several sizes (wrapped_factors.py). A row has the bytes over
dense, A and B counted in 16 bits, and the proxy loss tr(ΔHΔᵀ) over tr(WHWᵀ): with the H that it was made by,
and with that of text that it wasn't made by. With --own, H is of text that the model writes, and every form
is put into the whole model for its perplexity; without, H is of half of the windows.

    python benchmarks/quality/wrappers.py run MODEL TEXTS.json [--device cuda --own] [--blocks 0 15 29]
        [--deadline 540] [--results FOLDER]
    python benchmarks/quality/wrappers.py note RESULT.json

TEXTS is what `recover.py prepare` wrote. Rows are written as they are made. `note` prints the table for
docs/design/lab-notes.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, meta, write
from chat_model import device_name, load, result_name, windows_of, written
from other_texts import WINDOW, perplexity
from wrapped_factors import Factors, loss_of, on_support

import sparseflow as sf
from sparseflow.pruning import sparsegpt
from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.runtime.formats import find

PATTERNS = ("2:4", "4:6", "6:8")
Grams = Mapping[str, Tensor]


@torch.no_grad()
def grams_of(model: nn.Module, layers: list[Layer], windows: Tensor) -> dict[str, Tensor]:
    """Return XᵀX ``[K, K]`` of each layer's inputs, float32; layers that read the same share a tensor."""
    found: dict[str, Tensor] = {}
    last: list[tuple[Tensor, Tensor]] = []

    def see(name: str, x: Tensor) -> None:
        rows = x.flatten(0, -2).float()
        gram = last[0][1] if last and last[0][0] is x else rows.T @ rows
        last[:] = [(x, gram)]
        found[name] = found[name] + gram if name in found else gram

    def hook(name: str) -> Any:
        return lambda module, args: see(name, args[0])

    handles = [layer.module.register_forward_pre_hook(hook(layer.name)) for layer in layers]
    body = getattr(model, "base_model", model)  # without the head, which reads no layer's input
    for window in windows:
        body(window[None])
    for handle in handles:
        handle.remove()
    return found


@dataclass(frozen=True)
class Form:
    """A form that a layer was brought into, as the dense product of its parts."""

    name: str
    block: int
    weight: Tensor
    bytes_over_dense: float
    seconds: float


@dataclass
class Study:
    """All forms of all layers."""

    options: argparse.Namespace
    started: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    models: dict[tuple[str, int], nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = self.options
        self.device = torch.device(options.device)
        self.model, self.tokenizer = load(options.model, torch.float32)
        self.model.to(self.device)
        texts = windows_of(options.texts, self.tokenizer, WINDOW, options.windows)
        self.texts = {name: ids.to(self.device) for name, ids in texts.items()}
        self.layers = [layer for layer in find_layers(self.model, sf.DEFAULT_SKIP) if layer.dense is None]
        if not options.own:
            self.layers = [
                layer
                for layer in self.layers
                if _block_of(layer.name) in options.blocks and fnmatchcase(layer.name, options.layers)
            ]
            del self.model.base_model.layers[max(options.blocks) + 1 :]
        self.head = meta(
            device_name(self.device),
            model="SmolLM2-135M-Instruct",
            own=options.own,
            sweeps=options.sweeps,
            steps=options.steps,
            swaps=options.swaps,
        )

    def run(self) -> None:
        """Measure every layer, then the models made of them."""
        fitted, held = self._texts()
        grams, others = grams_of(self.model, self.layers, fitted), grams_of(self.model, self.layers, held)
        self.head |= {"tokens": fitted.numel(), "tokens_held_out": held.numel()}
        print(f"inputs of {len(self.layers)} layers, {self._spent():.0f} s", flush=True)
        for place, layer in enumerate(self.layers):
            taken = self._spent() / max(place, 1)
            if self._spent() + taken > self.options.deadline:
                print(f"left out for lack of time: {len(self.layers) - place} layers", flush=True)
                return
            self._layer(layer, grams[layer.name], others[layer.name])
        if self.options.own:
            self._perplexities()

    def _texts(self) -> tuple[Tensor, Tensor]:
        """Return windows that forms are fitted on, and others."""
        options, every = self.options, torch.cat(list(self.texts.values()))
        if not options.own:
            return every[::2], every[1::2]
        rows, _ = written(self.model, self.tokenizer, WINDOW, options.tokens, 60.0, options.seed)
        return torch.stack(rows[: options.tokens // WINDOW]).to(self.device), every

    def _layer(self, layer: Layer, gram: Tensor, other: Tensor) -> None:
        weight = layer.weight.float()
        n, k = layer.shape
        for form in self._forms(weight, gram / gram.diagonal().mean()):
            row = {"layer": layer.name, "N": n, "K": k, "form": form.name, "block": form.block}
            row |= {"bytes_over_dense": round(form.bytes_over_dense, 4)}
            row |= {"proxy": loss_of(weight, form.weight, gram)}
            row |= {"proxy_held_out": loss_of(weight, form.weight, other), "seconds": round(form.seconds, 2)}
            self.rows.append(row)
            if self.options.own:
                twin = self.models.setdefault((form.name, form.block), copy.deepcopy(self.model))
                twin.get_parameter(f"{layer.name}.weight").data.copy_(form.weight)
        write(self._name, self.head, self.rows, self.options.results)
        print(f"{layer.name}: {self._line(layer.name)}, {self._spent():.0f} s", flush=True)

    def _forms(self, weight: Tensor, gram: Tensor) -> Iterator[Form]:
        options, start = self.options, weight
        n, k = weight.shape
        for name in PATTERNS:
            begun = time.monotonic()
            pruned = sparsegpt(weight, gram.clone(), pattern=sf.Pattern.of(name))
            fitted = on_support(weight, pruned, gram, options.steps)
            start = fitted if name == "2:4" else start
            size = find(name).nbytes(n, k, "bf16") / (2 * n * k)
            yield Form(name, 0, fitted, size, time.monotonic() - begun)
        for block in options.wrappers:
            if n % block == k % block == 0:
                begun = time.monotonic()
                factors = Factors.of(weight, gram, start, block)
                for _ in range(options.sweeps):
                    for _ in factors.sweep(options.steps, options.swaps):
                        pass
                size = factors.bytes_over_dense()
                yield Form("wrapped", block, factors.product(), size, time.monotonic() - begun)

    def _perplexities(self) -> None:
        """Add a row for each form of the whole model; a layer that no block divides is dense in it."""
        dense = {name: perplexity(self.model, ids) for name, ids in self.texts.items()}
        for (name, block), model in self.models.items():
            logs = [math.log(perplexity(model, ids) / dense[text]) for text, ids in self.texts.items()]
            rows = [row for row in self.rows if (row["form"], row["block"]) == (name, block)]
            weights = sum(row["N"] * row["K"] for row in rows)
            size = sum(row["N"] * row["K"] * row["bytes_over_dense"] for row in rows) / weights
            row = {"layer": "all", "form": name, "block": block, "bytes_over_dense": round(size, 4)}
            row |= {"layers": len(rows), "ratio": round(math.exp(sum(logs) / len(logs)), 4)}
            self.rows.append(row)
            write(self._name, self.head, self.rows, self.options.results)
            print(row, f"{self._spent():.0f} s", flush=True)

    @property
    def _name(self) -> str:
        return result_name("quality_wrappers", self.device)

    def _line(self, layer: str) -> str:
        found = [row for row in self.rows if row["layer"] == layer]
        return ", ".join(
            f"{row['form']}{row['block'] or ''} {row['bytes_over_dense']:.3f} {row['proxy_held_out']:.5f}"
            for row in found
        )

    def _spent(self) -> float:
        return time.monotonic() - self.started


def _block_of(name: str) -> int:
    """Return the number in a layer's name; −1 without one."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), -1)


def note(path: Path) -> str:
    """Return a result as a table in Markdown: geometric means over the layers that have all forms."""
    rows = json.loads(path.read_text())["rows"]
    forms = list(dict.fromkeys((row["form"], row["block"]) for row in rows))
    by_layer: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for row in rows:
        by_layer.setdefault(row["layer"], {})[row["form"], row["block"]] = row
    whole = by_layer.pop("all", {})
    layers = [found for found in by_layer.values() if len(found) == len(forms)]
    heads = ("bytes over dense", "loss over 2:4's", "on other text", "perplexity over dense")
    lines = [f"| {len(layers)} layers | {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for form in forms:
        weights = [found[form]["N"] * found[form]["K"] for found in layers]
        size = sum(w * found[form]["bytes_over_dense"] for w, found in zip(weights, layers, strict=True))
        losses = [_mean_ratio(layers, form, key) for key in ("proxy", "proxy_held_out")]
        ratio = f"{whole[form]['ratio']:.3f}" if form in whole else "–"
        name = f"A·S·B, blocks of {form[1]}" if form[1] else form[0]
        lines.append(f"| {name} | {size / sum(weights):.3f} | {losses[0]:.3f} | {losses[1]:.3f} | {ratio} |")
    return "\n".join(lines)


def _mean_ratio(
    layers: list[dict[tuple[str, int], dict[str, Any]]], form: tuple[str, int], key: str
) -> float:
    """Return the geometric mean of a form's losses over those of 2:4."""
    logs = [math.log(found[form][key] / found["2:4", 0][key]) for found in layers]
    return math.exp(sum(logs) / len(logs))


def parse() -> argparse.Namespace:
    """Return the options."""
    main_parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = main_parser.add_subparsers(dest="command", required=True)
    commands.add_parser("note").add_argument("result", type=Path, help="what run wrote")
    parser = commands.add_parser("run")
    parser.add_argument("model", type=Path, help="folder or .gguf of the model")
    parser.add_argument("texts", type=Path, help="what recover.py prepare wrote")
    parser.add_argument("--own", action="store_true", help="H of own text, all layers, and perplexity")
    parser.add_argument(
        "--blocks", nargs="+", type=int, default=[0, 15, 29], help="of the model, without --own"
    )
    parser.add_argument("--layers", default="*", help="fnmatch pattern of their names, without --own")
    parser.add_argument(
        "--wrappers", nargs="+", type=int, default=[16, 32, 64], help="sizes of A's, B's blocks"
    )
    parser.add_argument("--sweeps", type=int, default=6, help="over A, B, masks and S")
    parser.add_argument("--steps", type=int, default=12, help="of conjugate gradients")
    parser.add_argument("--swaps", type=int, default=40, help="rounds of changes of masks in a sweep")
    parser.add_argument("--windows", type=int, default=16, help="of each text")
    parser.add_argument("--tokens", type=int, default=65536, help="of own text")
    parser.add_argument("--seed", type=int, default=0, help="of own text")
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds for everything")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return main_parser.parse_args()


def main() -> int:
    """Measure and write quality_wrappers_<device>.json, or print what is in it."""
    options = parse()
    if options.command == "note":
        print(note(options.result))
    else:
        Study(options, time.monotonic()).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
