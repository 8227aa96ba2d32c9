"""The parts of bench_model.py whose time is products of many rows: diffusion transformers and encoders.

The opponent is the best of eager, torch.compile, torch.compile with attention kept whole and torch.compile
with kernels that hold whole rows, in bfloat16 and with dense layers in fp8: torch 2.11's compile takes
attention of BERT and ViT apart, and goes over rows of more than 1024 several times. Compiled sides run as
CUDA graphs; eager's launches are hidden behind kernels that take far longer.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import _models
import torch
import torch.nn.functional as F
import transformers as tf
from _model_account import account, in_pieces
from _model_bench import BITS, Bench, by_torch, compared, row_of
from _model_parts import attention_of, in_fp8, reachable
from torch import Tensor, nn
from torch._inductor import list_mode_options
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.masking_utils import AttentionMaskInterface

import sparseflow as sf
from sparseflow.execution.persistent_rows import WHOLE_ROWS, choosing_anew

Inputs = Mapping[str, Any]
MODE: Literal["reduce-overhead"] = "reduce-overhead"
ROWS = "torch_compile_rows"
WHOLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]


class DiffusionBlock(nn.Module):
    """A block as of PixArt and DiT: attention and a GELU MLP, norms shifted and scaled by the time step.

    Args:
        width: features.
        heads: of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return ``[batch, tokens, width]``; ``time`` is ``[batch, 6, width]``."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (self.table + time).unsqueeze(2).unbind(1)
        x = x + gate * self.out(self._attention(self.norm(x) * (1 + scale) + shift))
        up = self.up(self.norm(x) * (1 + scale_mlp) + shift_mlp)
        mlp: Tensor = self.down(F.gelu(up, approximate="tanh"))
        return x + gate_mlp * mlp

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Diffusion(nn.Module):
    """So many blocks."""

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DiffusionBlock(width, heads) for _ in range(blocks))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return ``[batch, tokens, width]``."""
        for block in self.blocks:
            x = block(x, time)
        return x


class WholeAttention(nn.Module):
    """A model of torch whose attention no compiler takes apart into products."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        """Return the model's output."""
        with sdpa_kernel(WHOLE):
            return self.model(**inputs)


def unmasked(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """Attend to all keys, for transformers: without a mask torch.compile leaves attention whole."""
    return F.scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).contiguous(), None


UNMASKED = "unmasked"
tf.AttentionInterface.register(UNMASKED, unmasked)
AttentionMaskInterface.register(UNMASKED, lambda *_, **__: None)


@dataclass(frozen=True)
class Shape:
    """A model and its batch.

    Attributes:
        name: what rows call it.
        make: makes it.
        inputs: of a call.
        rows: of its products.
        batch: of the inputs.
        targets: the least speed-ups over dense bfloat16 and dense fp8.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    rows: int
    batch: int
    targets: tuple[float, float]


def _diffusion(bench: Bench, name: str, width: int, heads: int, batch: int, tokens: int, asked: Any) -> Shape:
    blocks = 8
    if bench.tiny:
        width, heads, batch, tokens, blocks = 128, 4, 1, 32, 1
    place = bench.place

    def make() -> nn.Module:
        with torch.device(place.device):
            return Diffusion(width, heads, blocks).to(place.dtype).eval()

    def drawn(rows: int) -> Tensor:
        return torch.randn(batch, rows, width, device=place.device, dtype=place.dtype)

    given = {"x": drawn(tokens), "time": drawn(6)}
    return Shape(f"{name}, {blocks} blocks", make, given, batch * tokens, batch, asked)


def _large(bench: Bench) -> dict[str, int]:
    """Sizes of BERT-large and ViT-L, six of their layers."""
    if bench.tiny:
        return {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}
    return {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 6}


def _bert(bench: Bench) -> Shape:
    batch, tokens = (2, 16) if bench.tiny else (64, 256)
    given = {"input_ids": _models.tokens(batch, tokens, 1000, bench.place.device)}
    make = functools.partial(_models.make, tf.BertModel, tf.BertConfig(**_large(bench)), bench.place)
    return Shape("bert-large, 6 layers", make, given, batch * tokens, batch, (1.15, 1.15))


def _vit(bench: Bench) -> Shape:
    batch = 2 if bench.tiny else 64
    pixels = torch.randn(batch, 3, 224, 224, device=bench.place.device, dtype=bench.place.dtype)
    config = tf.ViTConfig(**_large(bench), patch_size=14)
    make = functools.partial(_models.make, tf.ViTModel, config, bench.place)
    return Shape("vit-l/14, 6 layers", make, {"pixel_values": pixels}, batch * 257, batch, (1.15, 1.15))


SHAPES: dict[str, Callable[[Bench], Shape]] = {
    "flux": lambda bench: _diffusion(bench, "flux's shape", 3072, 24, 1, 4608, (1.25, 1.2)),
    "pixart": lambda bench: _diffusion(bench, "pixart's shape", 1152, 16, 2, 4096, (1.12, 1.12)),
    "bert-large": _bert,
    "vit-l": _vit,
}


def compute(bench: Bench, part: str) -> None:
    """2:4 in the number formats asked for, each over the best dense side of its bits."""
    shape = SHAPES[part](bench)
    model = shape.make()
    sf.prune(model, progress=False)
    with torch.no_grad():
        exact = _output(model(**shape.inputs))
    asked = zip(BITS, ("2:4", "2:4-fp8"), shape.targets, strict=True)
    for bits, format_, target in (of_bits for of_bits in asked if of_bits[0] in bench.bits):
        sides = _dense_sides(bench, shape, model, in_fp8 if bits == "fp8" else nn.Module.eval)
        make = functools.partial(sf.compile, model, mode=MODE, format=format_, **bench.options)
        compiled = make()
        if why := _why_not(sides[ROWS]):
            print(f"{shape.name}, {bits}: {ROWS} is left out: {why}", file=sys.stderr)
            del sides[ROWS]
        sides["ours"] = functools.partial(compiled, **shape.inputs)
        errors = {f"rel_err_{name}": compared(exact, _output(side())) for name, side in sides.items()}
        if bench.account:
            sides["ours_in_pieces"] = in_pieces(make, shape.inputs)
        times = bench.in_turn(sides)
        best = min((name for name in times if not name.startswith("ours")), key=times.__getitem__)
        both = {"dense": times[best], "ours": times["ours"]}
        ceiling = reachable(bench, compiled, times[best], shape.rows) if bits == "bf16" else None
        sparse = sum(layer.decision == "sparse" for layer in compiled.report.layers)
        bench.add({"model": shape.name, "phase": f"forward, {bits}", "batch": shape.batch, "mode": MODE,
                   **row_of(both, ceiling, None if bench.tiny else target), "dense_by": best,
                   **{f"{name}_ms": round(ms, 4) for name, ms in times.items()}, **errors,
                   "sparse_layers": sparse, **attention_of(compiled)})  # fmt: skip
        if bench.account:
            of_sides = {name: sides[name] for name in (best, "ours", "ours_in_pieces")}
            account(bench, {"model": shape.name, "phase": f"forward, {bits}"}, of_sides, compiled, shape.rows)
        del sides, compiled
        bench.release()


def _dense_sides(
    bench: Bench, shape: Shape, model: nn.Module, of: Callable[[nn.Module], nn.Module]
) -> dict[str, Callable[[], Any]]:
    """Return the opponents that `of` makes of a model, each a call without arguments."""
    dense = of(model)
    sides = {
        "eager": dense,
        "torch_compile": by_torch(bench, dense, MODE),
        "torch_compile_whole": by_torch(bench, _whole(shape, model, of), MODE),
        ROWS: _by_whole_rows(bench, _whole(shape, model, of)),
    }
    return {name: functools.partial(side, **shape.inputs) for name, side in sides.items()}


def _why_not(side: Callable[[], Any]) -> str:
    """Return why an opponent doesn't run: inductor's choice among kernels fails in some versions of torch."""
    try:
        side()
    except Exception as error:  # inductor raises what its code happens to
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return ""


def _by_whole_rows(bench: Bench, model: nn.Module) -> Callable[..., Any]:
    """The model through torch.compile, which takes kernels that hold whole rows where they are faster."""
    if not bench.on_gpu:
        one: Callable[..., Any] = by_torch(bench, model, MODE)
        return one
    options = {**list_mode_options(MODE), **WHOLE_ROWS}
    compiled = torch.compile(model, dynamic=False, options=options)

    def call(**inputs: Any) -> Any:
        with choosing_anew():  # what torch 2.11 takes from its cache can't look up its choice
            return compiled(**inputs)

    return call


def _whole(shape: Shape, model: nn.Module, of: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return what `of` makes of a model, with attention kept whole."""
    if not isinstance(model, tf.PreTrainedModel):
        return WholeAttention(of(model)).eval()
    twin: Any = shape.make()
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.set_attn_implementation(UNMASKED)
    return of(twin)


def _output(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found.clone()


COMPUTE: dict[str, Callable[[Bench], None]] = {part: functools.partial(compute, part=part) for part in SHAPES}
