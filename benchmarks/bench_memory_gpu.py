"""GPU memory of packed weights in memory mode compressed: `python benchmarks/bench_memory_gpu.py`.

A Llama-3-8B-shaped stack is compiled in place; what its sparse layers take is read from torch's allocator
and from nvidia-smi, before and after. What cuSPARSELt itself and its kernels take, whatever the model, is
loaded by a small model first and reported on its own.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import _measure
import torch
import transformers

import sparseflow as sf
from sparseflow.runtime import gpu
from sparseflow.runtime.tuning import GpuMachine

LAYERS = 8
TARGET = 0.57


def llama(layers: int) -> torch.nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=1024,
        dtype=torch.bfloat16,
    )
    with torch.device("cuda"):
        model: torch.nn.Module = transformers.LlamaForCausalLM(config)
    return model.to(torch.bfloat16).eval()


def used() -> dict[str, int]:
    """Bytes in use: of tensors, of what torch's allocator holds for them, and by nvidia-smi."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={uuid}"]
    smi = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return {
        "torch": torch.cuda.memory_allocated(),
        "torch_reserved": torch.cuda.memory_reserved(),
        "nvidia_smi": int(smi.split()[0]) << 20,
    }


def run(model: Any, ids: torch.Tensor) -> Any:
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    return model


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    gpu.require()
    ids = torch.randint(0, 1024, (2, 512), device="cuda")
    small = llama(1)
    run(small, ids)
    start = used()
    small = run(sf.compile(small, prune="magnitude", memory="compressed", inplace=True, inner="eager"), ids)
    overhead = {meter: now - start[meter] for meter, now in used().items()}
    model = run(llama(LAYERS), ids)
    before = used()
    compiled = run(
        sf.compile(model, prune="magnitude", memory="compressed", inplace=True, inner="eager"), ids
    )
    after = used()
    sparse = [layer for layer in compiled.report.layers if layer.decision == "sparse"]
    dense_bytes = sum(layer.bytes_dense for layer in sparse)
    rows: list[dict[str, Any]] = []
    for meter in before:
        ratio = (dense_bytes - (before[meter] - after[meter])) / dense_bytes
        rows.append(
            {
                "meter": meter,
                "layers": len(sparse),
                "dense_bytes": dense_bytes,
                "first_model": overhead[meter],
                "before": before[meter],
                "after": after[meter],
                "ratio": round(ratio, 4),
                "target": TARGET,
                "met": ratio <= TARGET,
            }
        )
        print(f"{meter}: {len(sparse)} sparse layers take {ratio:.4f} of their dense bytes, asked {TARGET}")
    machine = GpuMachine.here(0)
    name = _measure.gpu_name("memory", machine.gpu)
    print(
        f"wrote {_measure.write(name, _measure.meta(machine.gpu, machine=vars(machine)), rows, args.results)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
