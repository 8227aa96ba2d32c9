"""vLLM's server on a Llama-3-8B shape, dense and 2:4: `python benchmarks/bench_serve.py`.

It is `sparseflow bench serve` over made-up weights, with a made-up tokenizer: prompts are token ids. Requests
come all at once and at shares of what the dense server can do. Where two GPUs are visible, each server has
its own; both start at once, and each rate is sent to one, then to the other. With `--cache` they do so on one
GPU. `--tiny` runs a small shape on the CPU, as a test of the script. The file is written after every rate.
Where the package is on the path without being installed, its entry point, by which vLLM's processes find the
method, is put there too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _measure
from _gpus import gpu_of, visible_gpus
from _vllm_side import ENVIRONMENT, LLAMA_8B, TINY

from sparseflow.bench.completions_client import Requests
from sparseflow.bench.serve import Contender, Plan, at_once, serve_chart, serve_rows, serve_table

GROUP, ENTRY = "vllm.general_plugins", "sparseflow.integrations.vllm.registration:register"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=128, help="all at once, and at a rate at most")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of each prompt")
    parser.add_argument("--answer", type=int, default=256, help="tokens of each answer")
    parser.add_argument("--sequences", type=int, default=64, help="at a time in a server, at most")
    parser.add_argument(
        "--captured", nargs="+", type=int, default=[], help="sizes of CUDA graphs beyond the sequences"
    )
    parser.add_argument("--budget", type=int, help="tokens of a step at most; vLLM's own by default")
    parser.add_argument("--rate", nargs="+", type=float, default=[], help="requests a second")
    parser.add_argument(
        "--format", choices=("2:4", "2:4-fp8"), default="2:4", help="of our layers; dense has its bits"
    )
    parser.add_argument("--rounds", type=int, default=1, help="of every rate; on one GPU also of starts")
    parser.add_argument("--sending", type=float, default=10.0, help="seconds of requests at a rate, at most")
    parser.add_argument("--seconds", type=float, default=250.0, help="on two GPUs no rate would end later")
    parser.add_argument("--one-gpu", action="store_true", help="one server after the other on the first GPU")
    parser.add_argument("--cache", type=float, help="GiB of each server's: both run at once on the first GPU")
    parser.add_argument("--interval", type=int, default=8, help="tokens of an event in vLLM's stream")
    parser.add_argument("--policy", choices=("auto", "sparse"), default="auto", help="of our layers")
    parser.add_argument("--limit", type=int, default=240, help="seconds that a server may take to start")
    parser.add_argument("--logs", type=Path, help="folder for the servers' logs; they are not kept otherwise")
    parser.add_argument("--plot", type=Path, help="draw throughput and waiting into this file")
    parser.add_argument("--tiny", action="store_true", help="a small shape on the CPU")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    if args.tiny:
        args.requests, args.prompt, args.answer, args.sequences = 4, 16, 8, 4
    return args


def write_model(folder: Path, shape: dict[str, object]) -> None:
    """Write the configuration of a shape, and a tokenizer of as many words as its vocabulary has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{number}": number for number in range(int(str(shape["vocab_size"])))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", bos_token="w1", eos_token="w2")
    fast.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(shape))


def provide_entry_point(folder: Path) -> None:
    """Put the package's entry point on the path of all processes, if none is there."""
    if "sparseflow" in {entry.name for entry in importlib.metadata.entry_points(group=GROUP)}:
        return
    about = folder / "sparseflow-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sparseflow\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nsparseflow = {ENTRY}\n")
    sys.path.append(str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))


def options(args: argparse.Namespace) -> list[str]:
    """Return what both servers are given."""
    size = ["--max-model-len", str(args.prompt + args.answer + 16), "--max-num-seqs", str(args.sequences)]
    size += ["--max-num-batched-tokens", str(args.budget)] if args.budget else []
    kind = (
        ["--dtype", "float32", "--enforce-eager"] if args.tiny else ["--dtype", "bfloat16", *captured(args)]
    )
    # Without prefix caching every round reads its prompts. With an event for every token
    # the server's HTTP process might be what is measured.
    size += ["--stream-interval", str(args.interval)]
    return ["--load-format", "dummy", "--no-enable-prefix-caching", *size, *kind]


def captured(args: argparse.Namespace) -> list[str]:
    """Return the option with the sizes of CUDA graphs: vLLM's up to the sequences, and those asked for."""
    sizes = [1, 2, 4, *range(8, args.sequences + 1, 8), *args.captured]
    return ["--compilation-config", json.dumps({"cudagraph_capture_sizes": sizes})]


def contenders(args: argparse.Namespace, folder: Path) -> tuple[Contender, Contender]:
    """Return both sides, each with a GPU of its own where there are several."""
    cache = None if args.cache is None else int(args.cache * 2**30)
    gpus = [] if args.tiny or args.one_gpu or cache else visible_gpus()
    ours = {"policy": args.policy, "format": args.format, "prune": "magnitude"}
    same = ["--quantization", "fp8"] if args.format == "2:4-fp8" else []
    dense = Contender("dense", folder, [*options(args), *same], gpu=gpu_of(0, gpus), cache=cache)
    return dense, Contender("sparse", folder, options(args), ours, gpu=gpu_of(1, gpus), cache=cache)


def write(rows: list[dict[str, Any]], sides: tuple[Contender, Contender], plan: Plan, args: Any) -> Path:
    """Write the result file."""
    import torch

    device = _measure.cpu_name() if args.tiny else torch.cuda.get_device_name()
    head = _measure.meta(
        device,
        vllm=importlib.metadata.version("vllm"),
        format=args.format,
        sequences=args.sequences,
        stream_interval=args.interval,
        captured=args.captured,
        budget=args.budget,
        gpus={each.side: each.gpu for each in sides},
        servers="at once, measured in turn" if at_once(*sides) else "one after the other",
        each=[
            {"side": side, "rate": str(rate), "rounds": found} for (side, rate), found in plan.done.items()
        ],
        left_out=plan.left_out,
    )
    bench = "serve_fp8" if args.format == "2:4-fp8" else "serve"
    name = f"{bench}_tiny" if args.tiny else _measure.gpu_name(bench, device)
    return _measure.write(name, head, rows, args.results)


def main(argv: list[str]) -> int:
    args = parse(argv)
    deadline = time.monotonic() + args.seconds
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if "MULTIPROCESSING" not in name})
    shape = TINY if args.tiny else LLAMA_8B
    with tempfile.TemporaryDirectory() as work:
        folder, logs = Path(work) / "model", args.logs or Path(work)
        folder.mkdir()
        logs.mkdir(parents=True, exist_ok=True)
        write_model(folder, shape)
        provide_entry_point(Path(work) / "path")
        os.environ["VLLM_CACHE_ROOT"] = str(Path(work) / "cache")  # nothing that an earlier run compiled
        sides = contenders(args, folder)
        asked = Requests(args.requests, args.prompt, args.answer, min(90, int(str(shape["vocab_size"]))))
        plan = Plan(asked, list(args.rate), args.rounds, args.limit, logs, args.sending, deadline)
        rows: list[dict[str, Any]] = []
        for rows in serve_rows(*sides, plan):
            path = write(rows, sides, plan, args)
    if args.plot is not None:
        serve_chart(rows, args.plot)
    print(serve_table(rows), *plan.left_out, path, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
