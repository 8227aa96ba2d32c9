"""The parts of bench_model.py that set a model of few layers, or a small one, beside torch.compile."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import _ceiling
import _models
import torch
from _model_bench import Bench, bound, by_torch, compared, first, llama_4, pair, row_of
from torch import nn

from sparseflow.runtime.fp8 import quantize_rows

CACHE = 1024
_PREFILL = ((1, 2048), (4, 2048))
_TINY = ((1, 32), (2, 32))
_DECODE = {1: 1.3, 16: 1.12, 64: None}


def prefill(bench: Bench) -> None:
    """One forward over a prompt, logits of the last token."""
    name, model = llama_4(bench)
    dense, compiled = pair(bench, model, None)
    for batch, seq in _TINY if bench.tiny else _PREFILL:
        options = _prompt(bench, model, batch, seq)
        sides = bound({"dense": dense, "ours": compiled}, options)
        error = compared(first(sides["dense"]()), first(sides["ours"]()))
        if bench.on_gpu and (batch, seq) == (1, 2048):
            sides |= bound({"torch_2_4": semi_structured(model)}, options)
        times = bench.in_turn(sides)
        row = row_of(times, reachable(bench, compiled, times["dense"], batch * seq), _asked(bench, 1.25))
        theirs = times.get("torch_2_4")
        more = {} if theirs is None else {"over_torch_2_4": round(theirs / times["ours"], 2)}
        bench.add({"model": name, "phase": "prefill", "batch": batch, "seq": seq, "mode": None, **row, **more,
                   "at_least": dict.fromkeys(more, 4), "rel_err": error, **attention_of(compiled),
                   "compilations": compiled.report.model["compilations"]})  # fmt: skip


def semi_structured(model: nn.Module) -> nn.Module:
    """A copy that runs PyTorch's own 2:4 weights, eager."""
    twin = copy.deepcopy(model)
    for module in _linears(twin).values():
        sparse: Any = torch.sparse.to_sparse_semi_structured(module.weight.detach())
        module.weight = nn.Parameter(sparse, requires_grad=False)
    return twin


class ScaledLinear(nn.Module):
    """A layer in fp8 as torch has it: e4m3 with a scale for each row of W and, found in each call, of x."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        weight, scale = quantize_rows(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x · Wᵀ + b``; x ``[…, K]``."""
        rows, scale = quantize_rows(x.flatten(0, -2))
        y = torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return y.view(*x.shape[:-1], -1)


def in_fp8(model: nn.Module) -> nn.Module:
    """A copy whose layers are `ScaledLinear`, but the head, which ours leaves alone too."""
    twin = copy.deepcopy(model)
    for name, module in _linears(twin).items():
        twin.set_submodule(name, ScaledLinear(module))
    return twin


def fp8(bench: Bench) -> None:
    """Prefill in fp8, beside torch.compile in bf16 and in dense fp8."""
    name, model = llama_4(bench)
    dense, compiled = pair(bench, model, None, format="2:4-fp8")
    dense_fp8 = by_torch(bench, in_fp8(model), None)
    for batch, seq in _TINY if bench.tiny else _PREFILL:
        options = _prompt(bench, model, batch, seq)
        sides = bound({"dense": dense, "dense_fp8": dense_fp8, "ours": compiled}, options)
        exact, theirs, ours = (first(side()) for side in sides.values())
        times = bench.in_turn(sides)
        over = round(times["dense_fp8"] / times["ours"], 3)
        bench.add({"model": name, "phase": "prefill, fp8", "batch": batch, "seq": seq, "mode": None,
                   **row_of(times, None, _asked(bench, 1.6)), "over_dense_fp8": over,
                   "at_least": {} if bench.tiny else {"over_dense_fp8": 1.2},
                   "rel_err": compared(exact, ours), "rel_err_dense_fp8": compared(exact, theirs),
                   **attention_of(compiled),
                   "fp8_layers": sum(layer.format == "2:4-fp8" for layer in compiled.report.layers),
                   "compilations": compiled.report.model["compilations"]})  # fmt: skip


def decode(bench: Bench) -> None:
    """One token over 1024 tokens of static cache, with CUDA graphs."""
    name, model = llama_4(bench)
    mode = "reduce-overhead"
    dense, compiled = pair(bench, model, mode)
    targets: dict[int, float | None] = {1: None, 2: None} if bench.tiny else _DECODE
    length = 64 if bench.tiny else CACHE
    for batch, target in targets.items():
        torch.manual_seed(batch)
        theirs = _models.Decoding(model, dense, batch, length)
        torch.manual_seed(batch)
        ours = _models.Decoding(model, compiled, batch, length)
        error = compared(first(theirs()), first(ours()))
        times = bench.in_turn({"dense": theirs, "ours": ours})
        row = row_of(times, reachable(bench, compiled, times["dense"], batch), target)
        bench.add({"model": name, "phase": "decode", "batch": batch, "seq": length, "mode": mode, **row,
                   "rel_err": error, "compilations": compiled.report.model["compilations"]})  # fmt: skip


def _small(bench: Bench, name: str) -> None:
    """A model whose sparse layers rarely pay: never slower."""
    make, inputs = _models.small(bench.place, bench.tiny)[name]
    mode = "reduce-overhead"
    dense, compiled = pair(bench, make(), mode)
    for batch in bench.batches:
        sides = bound({"dense": dense, "ours": compiled}, inputs(batch))
        error = compared(first(sides["dense"]()), first(sides["ours"]()))
        row = row_of(bench.in_turn(sides), None, _asked(bench, 0.98))
        sparse = sum(layer.decision == "sparse" for layer in compiled.report.layers)
        bench.add({"model": name, "phase": "forward", "batch": batch, "mode": mode, **row,
                   "rel_err": error, "sparse_layers": sparse, **attention_of(compiled)})  # fmt: skip


SMALL: dict[str, Callable[[Bench], None]] = {
    name: functools.partial(_small, name=name) for name in ("bert-base", "vit-b", "gpt2", "qwen3-0.6b")
}


def attention_of(compiled: Any) -> dict[str, int]:
    """How many of the last program's attentions there are, and how many of them read a mask."""
    sdpa = torch.ops.aten.scaled_dot_product_attention.default
    masks = [(*n.args, None)[3] for n in compiled.graph(program=-1).graph.nodes if n.target is sdpa]
    return {"attentions": len(masks), "masked": sum(mask is not None for mask in masks)}


def _asked(bench: Bench, target: float) -> float | None:
    return None if bench.tiny else target


def _prompt(bench: Bench, model: Any, batch: int, seq: int) -> dict[str, Any]:
    ids = _models.tokens(batch, seq, model.config.vocab_size, bench.place.device)
    return {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    """All layers but the head."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {name: module for name, module in found.items() if "lm_head" not in name}


def reachable(bench: Bench, compiled: Any, dense_ms: float, m: int) -> float | None:
    """See `_ceiling`; None without a GPU."""
    if not bench.on_gpu:
        return None
    return _ceiling.ceiling_ms(compiled._programs.all[-1], dense_ms, m, bench.place.dtype)
