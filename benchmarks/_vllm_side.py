"""One engine of bench_vllm.py in a process of its own: it starts, then measures each time that it is told to.

It reads lines from its standard input and answers each with a line of JSON on its standard output; what vLLM
prints goes to the standard error.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    "VLLM_HOST_IP": "127.0.0.1",
    "HF_HUB_OFFLINE": "1",
}
COLUMNS, RATE, MOST_ROWS = "columns", 0.4, 8
"""The engine that leaves out inputs near zero, the share that it does, and for how many sequences."""

QUANTIZATION = {
    "dense": None,
    "dense-fp8": "fp8",
    "2:4": "sparseflow",
    "2:4-fp8": "sparseflow",
    COLUMNS: "sparseflow",
}
"""The engines, and what vLLM calls their quantization."""

LARGEST_ERROR = {"float32": 1e-4, "2:4": 1e-2, "2:4-fp8": 6e-2}
"""Of a layer's product against float64, relative to the largest output; e4m3 rounds inputs by up to 2⁻⁴."""

UTILIZATION = 0.9
"""The share of a GPU's memory that a lone engine may take: vLLM's own default."""


def kv_bytes_per_token(shape: dict[str, Any], itemsize: int) -> int:
    """Return the bytes that keys and values of a token take in all layers."""
    head = shape["hidden_size"] // shape["num_attention_heads"]
    return int(2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head * itemsize)


def most_tokens(args: argparse.Namespace) -> int:
    """Return how many tokens are in the cache at most, in blocks of 16."""
    return int(
        max(max(args.batches) * (decoded(args) + 16), *(n * (length + 17) for n, length in args.prompts))
    )


def engine(args: argparse.Namespace, folder: Path) -> Any:
    """Start an engine of made-up weights over the shape in a folder."""
    from sparseflow.integrations.vllm import registration

    registration.register()  # whether or not the package is installed with its entry point
    options: dict[str, Any] = {"quantization": QUANTIZATION[args.side]}
    if args.side == COLUMNS:
        from _vllm_thresholds import write_thresholds

        path = folder / "thresholds.json"
        write_thresholds(functools.partial(started, args, folder), path, RATE)
        options["additional_config"] = {"sparseflow": {"policy": args.policy, "thresholds": str(path)}}
    elif options["quantization"] == "sparseflow":
        ours = {"prune": "magnitude", "policy": args.policy, "format": args.side}
        options["additional_config"] = {"sparseflow": ours}
    return started(args, folder, **options)


def started(args: argparse.Namespace, folder: Path, **given: Any) -> Any:
    """Start an engine with further options."""
    from vllm import LLM

    options: dict[str, Any] = {}
    longest = max(decoded(args), *(length for _, length in args.prompts))
    if args.tiny:
        options["enforce_eager"] = True
    else:
        options["compilation_config"] = {"cudagraph_capture_sizes": args.batches}
        if not args.apart:
            # Others are on the GPU, and come and go: what is free says nothing.
            size = most_tokens(args) * kv_bytes_per_token(LLAMA_8B, 2)
            options |= {"kv_cache_memory_bytes": size * 11 // 10, "gpu_memory_utilization": 0.05}
        else:
            options["gpu_memory_utilization"] = UTILIZATION
    return LLM(
        model=str(folder),
        load_format="dummy",
        dtype="float32" if args.tiny else "bfloat16",
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_model_len=longest + 1,
        max_num_batched_tokens=max(budget(args), longest),
        **{"max_num_seqs": max(args.batches), **options, **getattr(args, "engine_options", {}), **given},
    )


@contextmanager
def timed_loading(lock: Path, times: list[float]) -> Iterator[None]:
    """Let vLLM load models only while no other process with the lock does, and note the seconds."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    whole = BaseModelLoader.load_model

    def load_model(self: object, *args: object, **options: object) -> object:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            start = time.perf_counter()
            model = whole(self, *args, **options)
            synchronize()
            times.append(time.perf_counter() - start)
        return model

    BaseModelLoader.load_model = load_model
    try:
        yield
    finally:
        BaseModelLoader.load_model = whole


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def sampling(count: int) -> Any:
    """Parameters for so many greedy tokens, whatever they are."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)


def prompts(batch: int, length: int) -> list[dict[str, list[int]]]:
    """Prompts of token ids, all different."""
    return [{"prompt_token_ids": [(7 * i + 13 * j) % 90 + 3 for i in range(length)]} for j in range(batch)]


def budget(args: argparse.Namespace) -> int:
    """Return the tokens of the largest step."""
    return int(max(args.context, *(n * length for n, length in args.prompts)))


def steps_before(args: argparse.Namespace, batch: int) -> int:
    """Return how many steps it takes at most until every prompt of a batch has been read.

    The sequences whose prompts are read first decode meanwhile: each takes a token of a step's budget.
    """
    return 2 - int(-batch * args.context // (budget(args) - batch))


def decoded(args: argparse.Namespace) -> int:
    """Return the tokens of the longest sequence that is decoded."""
    return int(args.context + args.steps + steps_before(args, max(args.batches)) + 1)


def step_times(llm: Any, batch: int, context: int, steps: int, before: int) -> list[float]:
    """Return the seconds of each step in which every sequence gets a token, at least so many.

    Args:
        llm: the engine.
        batch: sequences.
        context: tokens of each prompt.
        steps: to time.
        before: steps until every prompt was read: the first sequences decode so many tokens before.
    """
    ran = llm.llm_engine
    for number, prompt in enumerate(prompts(batch, context)):
        ran.add_request(str(number), prompt, sampling(steps + before + 1))
    begun: set[str] = set()
    times, whole = [], True
    while ran.has_unfinished_requests():
        ready = len(begun) == batch and whole
        start = time.perf_counter()
        for out in ran.step():
            if out.outputs[0].token_ids:
                begun.add(out.request_id)
            whole = whole and not out.finished
        if ready:
            times.append(time.perf_counter() - start)
    return times


def step_ms(llm: Any, batch: int, context: int, steps: int, before: int) -> float:
    """Return the median milliseconds of the steps that `step_times` times."""
    times = step_times(llm, batch, context, steps, before)
    # The first steps fill the pipeline of a scheduler that runs ahead, the last empty it.
    return 1e3 * statistics.median(times[2:-2])


def prompt_ms(llm: Any, batch: int, length: int, repeats: int) -> float:
    """Return the median milliseconds from prompts to their first tokens."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        llm.generate(prompts(batch, length), sampling(1), use_tqdm=False)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def largest_error(model: Any) -> float:
    """Return the largest relative error of our layers' products, one layer of each shape."""
    import torch

    worst, seen = 0.0, set()
    for layer in model.modules():
        if getattr(layer, "weight_packed", None) is None or layer.weight_packed.shape in seen:
            continue
        seen.add(layer.weight_packed.shape)
        weight = layer.quant_method.dequantize_weight(layer)
        for m in (1, 8, 33, 300):
            x = torch.randn(m, weight.shape[1], dtype=weight.dtype, device=weight.device)
            exact = x.double() @ weight.double().T
            y = layer.quant_method.apply(layer, x)
            if y.shape[-1] != exact.shape[-1]:  # gated; the shapes here have SiLU
                gate, up = exact.chunk(2, -1)
                exact = torch.nn.functional.silu(gate) * up
            error = (y.double() - exact).abs().max() / exact.abs().max()
            worst = max(worst, float(error))
    return worst


def largest_column_error(model: Any) -> float:
    """Return the largest relative error of our layers that leave out inputs, one layer of each shape."""
    import torch

    from sparseflow.runtime.contextual.column import kept_inputs

    worst, seen = 0.0, set()
    for layer in model.modules():
        weight = getattr(layer, "weight_turned", None)
        if weight is None or weight.shape in seen:
            continue
        seen.add(weight.shape)
        method = layer.quant_method
        for m in (1, 2, 8, 33, 300):
            x = torch.randn(m, weight.shape[0], dtype=weight.dtype, device=weight.device) * method.threshold
            kept = kept_inputs(x, method.threshold) if m <= method.m_max else x
            exact = kept.double() @ weight.double()
            error = (method.apply(layer, x).double() - exact).abs().max() / exact.abs().max()
            worst = max(worst, float(error))
    return worst


def weight_bytes(model: Any) -> int:
    """Return the bytes of memory that parameters and buffers lie in, each byte once."""
    tensors = [*model.parameters(), *model.buffers()]
    storages = {(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in tensors}
    total = end = 0
    for start, size in sorted(storages):
        total += max(0, start + size - max(start, end))
        end = max(end, start + size)
    return total


def memory(args: argparse.Namespace, llm: Any) -> dict[str, Any]:
    """Return what a GPU's memory holds, and how many tokens' keys and values it could hold beside that.

    The tokens are those of what weights and the largest prompts leave of `UTILIZATION` of the memory.
    """
    import torch

    (weights,) = llm.apply_model(weight_bytes)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    batch, length = max(args.prompts, key=lambda shape: int(shape[0] * shape[1]))
    prompt_ms(llm, batch, length, 1)
    activations = torch.cuda.max_memory_allocated() - before
    total = torch.cuda.get_device_properties(0).total_memory
    left = UTILIZATION * total - weights - activations
    return {
        "weight_bytes": weights,
        "activation_bytes": activations,
        "kv_tokens": int(left // kv_bytes_per_token(LLAMA_8B, 2)),
    }


def start(args: argparse.Namespace, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Start the engine; return it, and what is to be said of it before anything is timed."""
    began, loading = time.perf_counter(), list[float]()
    with timed_loading(folder / "loading", loading):
        llm = engine(args, folder)
    config = llm.llm_engine.vllm_config
    blocks, size = config.cache_config.num_gpu_blocks, config.cache_config.block_size
    found: dict[str, Any] = {
        "start_s": time.perf_counter() - began,
        "load_s": loading[-1],
        "engine_kv_tokens": blocks * size,
    }
    if not args.tiny:
        found |= memory(args, llm)
    if QUANTIZATION[args.side] == "sparseflow":
        (found["error"],) = llm.apply_model(largest_column_error if args.side == COLUMNS else largest_error)
        found["layers"] = list(config.quant_config.layers.lines())
        limit = LARGEST_ERROR["float32" if args.tiny else args.side.replace(COLUMNS, "2:4")]
        if found["error"] > limit:
            raise RuntimeError(f"largest error {found['error']:.2e}, over {limit:.0e}: nothing is timed")
    for batch in args.batches:
        step_times(llm, batch, args.context, 4, 0)
    for batch, length in args.prompts:
        prompt_ms(llm, batch, length, 1)
    return llm, found


def measure(args: argparse.Namespace, llm: Any) -> dict[str, Any]:
    """Time decode steps, then prompts: ``[batch, length, ms]`` each."""
    return {
        "decode": [
            (n, args.context, step_ms(llm, n, args.context, args.steps, steps_before(args, n)))
            for n in args.batches
        ],
        "prefill": [(n, length, prompt_ms(llm, n, length, args.repeats)) for n, length in args.prompts],
    }


def answers() -> Callable[[dict[str, Any]], None]:
    """Return what writes a line to the standard output; all else goes to the standard error from now on."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        out.write(json.dumps(found) + "\n")
        out.flush()

    return answer


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("options", type=json.loads, help="what bench_vllm.py gives")
    args = argparse.Namespace(**parser.parse_args(argv).options)
    if args.side == COLUMNS:
        args.batches = [batch for batch in args.batches if batch <= MOST_ROWS]
    answer = answers()
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu
    os.environ.update(ENVIRONMENT, VLLM_CACHE_ROOT=str(Path(args.folder) / f"cache-{args.side}"))
    llm, found = start(args, Path(args.folder))
    answer(found)
    for _ in sys.stdin:
        answer(measure(args, llm))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
