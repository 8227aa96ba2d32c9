"""One side of bench_vllm.py in a process of its own: an engine, its steps and prompts timed."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
TINY = {
    **LLAMA_8B,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
LARGEST_ERROR = {"bfloat16": 1e-2, "float32": 1e-4}
"""Of a layer's product against float64, relative to the largest output."""


def engine(args: argparse.Namespace, folder: Path) -> Any:
    """Start an engine of made-up weights over the shape in a folder."""
    from vllm import LLM

    from sparseflow.integrations.vllm import registration

    registration.register()  # whether or not the package is installed with its entry point
    batch, context = max(args.batches), args.context + args.steps + 1
    prompt = max(context, *(length for _, length in args.prompts))
    ours = {
        "quantization": "sparseflow",
        "additional_config": {"sparseflow": {"prune": "magnitude", "policy": args.policy}},
    }
    return LLM(
        model=str(folder),
        load_format="dummy",
        dtype="float32" if args.tiny else "bfloat16",
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_model_len=prompt + 1,
        max_num_seqs=batch,
        max_num_batched_tokens=max(prompt, *(n * length for n, length in args.prompts)),
        enforce_eager=args.tiny,
        **({} if args.tiny else {"compilation_config": {"cudagraph_capture_sizes": args.batches}}),
        **(ours if args.side == "sparse" else {}),
    )


def sampling(count: int) -> Any:
    """Parameters for so many greedy tokens, whatever they are."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)


def prompts(batch: int, length: int) -> list[dict[str, list[int]]]:
    """Prompts of token ids, all different."""
    return [{"prompt_token_ids": [(7 * i + 13 * j) % 90 + 3 for i in range(length)]} for j in range(batch)]


def step_ms(llm: Any, batch: int, context: int, steps: int) -> float:
    """Return the milliseconds of a step in which every sequence gets a token, after the first tokens."""
    ran = llm.llm_engine
    for number, prompt in enumerate(prompts(batch, context)):
        ran.add_request(str(number), prompt, sampling(steps + 1))
    begun: set[str] = set()
    times = []
    while ran.has_unfinished_requests():
        ready = len(begun) == batch
        start = time.perf_counter()
        begun |= {out.request_id for out in ran.step() if out.outputs[0].token_ids}
        if ready:
            times.append(time.perf_counter() - start)
    # The first steps fill the pipeline of a scheduler that runs ahead, the last empty it.
    return 1e3 * statistics.mean(times[2:-2] or times)


def prompt_ms(llm: Any, batch: int, length: int, repeats: int) -> float:
    """Return the milliseconds from prompts to their first tokens."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        llm.generate(prompts(batch, length), sampling(1), use_tqdm=False)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:])


def largest_error(model: Any) -> float:
    """Return the largest relative error of the packed layers' products, one layer of each shape."""
    import torch

    from sparseflow.runtime import PackedWeight

    worst, seen = 0.0, set()
    for layer in model.modules():
        values = getattr(layer, "weight_packed", None)
        if values is None or values.shape in seen:
            continue
        seen.add(values.shape)
        k = 2 * values.shape[1]
        weight = PackedWeight((values.data, layer.weight_positions.data), k, trusted=True).unpack().double()
        for m in (1, 8, 33, 300):
            x = torch.randn(m, k, dtype=values.dtype, device=values.device)
            exact = x.double() @ weight.T
            error = (layer.quant_method.apply(layer, x).double() - exact).abs().max() / exact.abs().max()
            worst = max(worst, float(error))
    return worst


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time one engine: decode steps, then prompts."""
    start = time.perf_counter()
    llm = engine(args, folder)
    config = llm.llm_engine.vllm_config
    found: dict[str, Any] = {
        "load_s": time.perf_counter() - start,
        "kv_tokens": config.cache_config.num_gpu_blocks * config.cache_config.block_size,
        "decode": [],
        "prefill": [],
    }
    if args.side == "sparse":
        (found["error"],) = llm.apply_model(largest_error)
        found["layers"] = list(config.quant_config.layers.lines())
    for batch in args.batches:
        step_ms(llm, batch, args.context, 4)
        found["decode"].append((batch, args.context, step_ms(llm, batch, args.context, args.steps)))
    for batch, length in args.prompts:
        found["prefill"].append((batch, length, prompt_ms(llm, batch, length, args.repeats)))
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("options", type=json.loads, help="what bench_vllm.py gives")
    args = argparse.Namespace(**parser.parse_args(argv).options)
    os.environ.update(ENVIRONMENT)
    found = measure(args, Path(args.folder))
    Path(args.out).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
