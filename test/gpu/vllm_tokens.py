"""Print the tokens of a vLLM engine: `python vllm_tokens.py FOLDER true|false`, launching early or not."""

from __future__ import annotations

import json
import os
import sys

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
PROMPTS, STEPS = 24, 96


def main(folder: str, early: bool) -> None:
    """Print a list of token ids for each prompt, and whether the engine launched early."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints
    from vllm import LLM, SamplingParams

    from sparseflow.integrations.vllm import registration

    registration.register()
    llm = LLM(
        model=folder,
        load_format="dummy",
        dtype="bfloat16",
        quantization="sparseflow",
        additional_config={"sparseflow": {"prune": "magnitude", "policy": "sparse"}},
        compilation_config={
            "cudagraph_capture_sizes": [1, 8, PROMPTS],
            **({} if early else {"inductor_compile_config": {"triton.enable_pdl": False}}),
        },
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        max_model_len=256,
        max_num_seqs=PROMPTS,
        gpu_memory_utilization=0.05,
        kv_cache_memory_bytes=1 << 28,
    )
    prompts = [
        {"prompt_token_ids": [(31 * i + 17 * n) % 8000 + 5 for i in range(9 + n)]} for n in range(PROMPTS)
    ]
    sampling = SamplingParams(temperature=0, max_tokens=STEPS, ignore_eos=True, detokenize=False)
    tokens = [list(one.outputs[0].token_ids) for one in llm.generate(prompts, sampling, use_tqdm=False)]
    lines = list(llm.llm_engine.vllm_config.quant_config.layers.lines())
    out.write(json.dumps({"tokens": tokens, "early": any("launch products early" in line for line in lines)}))
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
