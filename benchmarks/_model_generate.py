"""The part of bench_model.py that counts equal tokens: greedy generation beside the pruned eager model."""

from __future__ import annotations

from typing import Any

import _models
import torch
from _model_bench import Bench, by_torch, llama_4

import sparseflow as sf

PROMPT, NEW, BATCH = 64, 64, 4


def generate(bench: Bench) -> None:
    """Greedy tokens in the model's dtype, a left-padded batch, static and dynamic cache.

    After its first other token a sequence goes its own way: `agreement` is the share of the generated tokens
    that the eager model would have chosen after the same ones, `equal_tokens` the share of equal tokens in
    two generations, and `agreement_torch_compile` what torch.compile makes of the eager model's choices.
    """
    name, model = llama_4(bench)
    sf.prune(model, progress=False)
    compiled = sf.compile(model, mode="reduce-overhead", **bench.options)
    ids = _models.tokens(BATCH, PROMPT, model.config.vocab_size, bench.place.device)
    mask = torch.ones_like(ids)
    mask[0, : PROMPT // 2] = 0
    options: dict[str, Any] = {
        "attention_mask": mask,
        "max_new_tokens": 8 if bench.tiny else NEW,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    expected = model.generate(ids, **options, disable_compile=True)[:, PROMPT:]
    for cache in ("static", "dynamic"):
        found = compiled.generate(ids, **options, cache_implementation=cache)
        chosen = _choices(model, found, mask)
        theirs = _choices(by_torch(bench, model, None), found, mask)
        found = found[:, PROMPT:]
        agreement = _share(found, chosen)
        bench.add({"model": name, "phase": f"generate, {cache} cache", "batch": BATCH, "seq": PROMPT,
                   "new_tokens": found.shape[1], "mode": "reduce-overhead", "target": None,
                   "dtype": str(model.dtype).removeprefix("torch."), "agreement": agreement,
                   "equal_tokens": _share(found, expected), "agreement_torch_compile": _share(theirs, chosen),
                   "compilations": compiled.report.model["compilations"]})  # fmt: skip


def _choices(run: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The likeliest token after each prefix of the generated part."""
    whole = torch.cat([mask, torch.ones_like(tokens[:, mask.shape[1] :])], dim=1)
    logits = run(input_ids=tokens, attention_mask=whole, use_cache=False).logits
    found: torch.Tensor = logits[:, mask.shape[1] - 1 : -1].argmax(-1)
    return found


def _share(one: torch.Tensor, other: torch.Tensor) -> float:
    return round(float((one == other).float().mean()), 4)
