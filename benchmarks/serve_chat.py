"""Prune a chat model, serve it with vLLM and ask it: `python benchmarks/serve_chat.py MODEL`.

`sparseflow prune` makes it 2:4, `vllm serve --quantization sparseflow` serves it on the CPU in float32, and
the answer to a chat request through the OpenAI API must have the tokens that transformers gives. It needs an
environment with vLLM, such as that of `make test-vllm`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _measure

from sparseflow.bench.vllm_server import NAME, Server

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a transformers model with a chat template")
    parser.add_argument("--pruned", type=Path, help="where the pruned model is, or is to be put")
    parser.add_argument("--name", help="of the model in the result file; by default the folder's")
    parser.add_argument("--method", default="magnitude", help="of pruning")
    parser.add_argument("--calibration", type=Path, help="text that the method looks at")
    parser.add_argument("--policy", choices=("auto", "sparse"), default="auto", help="of our layers")
    parser.add_argument("--tokens", type=int, default=24, help="to answer with at most")
    parser.add_argument("--limit", type=int, default=600, help="seconds to wait for the server")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    return parser.parse_args(argv)


def prune(model: Path, pruned: Path, method: str, calibration: Path | None) -> None:
    """Run `sparseflow prune`, unless the folder is there."""
    if (pruned / "config.json").exists():
        return
    command = [sys.executable, "-m", "sparseflow.cli", "prune", str(model), str(pruned), "--method", method]
    if calibration is not None:
        command += ["--calibration", str(calibration), "--samples", "32", "--length", "256"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def options(policy: str) -> list[str]:
    """Return what `vllm serve` is given beside the model."""
    ours = json.dumps({"sparseflow": {"policy": policy}})
    size = ["--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "2", "--enforce-eager"]
    return ["--quantization", "sparseflow", "--additional-config", ours, *size]


def ask(port: int, tokens: int) -> tuple[str, list[int]]:
    """Send the chat request; return the answer and its tokens."""
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    answer = client.chat.completions.create(
        model=NAME,
        messages=MESSAGES,
        temperature=0,
        max_tokens=tokens,
        extra_body={"return_token_ids": True},
    )
    choice = answer.choices[0]
    return choice.message.content or "", list(choice.token_ids)


def expected(folder: Path, tokens: int) -> tuple[str, list[int]]:
    """What transformers answers with the same weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        out = model.generate(**prompt, max_new_tokens=tokens, do_sample=False)
    found = out[0][prompt["input_ids"].shape[1] :].tolist()
    return tokenizer.decode(found, skip_special_tokens=True), found


def main(argv: list[str]) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as work:
        pruned = args.pruned or Path(work) / "pruned"
        prune(args.model, pruned, args.method, args.calibration)
        text, wanted = expected(pruned, args.tokens)
        log = Path(work) / "log"
        os.environ.update(ENVIRONMENT)
        with Server(pruned, options(args.policy), log) as server:
            running = server.wait(args.limit)
            try:
                answer, tokens = ask(running.port, args.tokens)
            except Exception:
                print(log.read_text(errors="replace")[-6000:], file=sys.stderr)
                raise
        lines = [
            line.split("sparseflow: ")[-1] for line in log.read_text().splitlines() if "] sparseflow:" in line
        ]
    row: dict[str, Any] = {
        "model": args.name or args.model.name,
        "method": args.method,
        "same_tokens": tokens == wanted,
        "tokens": len(tokens),
        "answer": answer,
        "transformers": text,
        "startup_s": running.start_s,
        "layers": lines,
    }
    import vllm

    path = _measure.write(
        "serve_chat", _measure.meta(_measure.cpu_name(), vllm=vllm.__version__), [row], args.results
    )
    print(*lines, json.dumps({**row, "layers": len(lines)}, indent=1), path, sep="\n")
    return int(tokens != wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
