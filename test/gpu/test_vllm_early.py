"""vLLM's graphs whose small kernels launch products early give the tokens of those that launch in order."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from vllm_tokens import CONFIG, PROMPTS, STEPS

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM isn't installed"),
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0),
        reason="this GPU launches nothing early",
    ),
]
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "HF_HUB_OFFLINE": "1",
}


def test_tokens_are_those_of_launches_in_order(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    script = Path(__file__).with_name("vllm_tokens.py")
    engines = {}
    for early in ("true", "false"):
        environment = os.environ | ENVIRONMENT | {"VLLM_CACHE_ROOT": str(tmp_path / early)}
        engines[early] = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), early],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"{early}.log").open("w"),
        )
    found = {}
    for early, engine in engines.items():
        said, _ = engine.communicate(timeout=300)
        assert engine.returncode == 0, (tmp_path / f"{early}.log").read_text()[-4000:]
        found[early] = json.loads(said)
    assert (found["true"]["early"], found["false"]["early"]) == (True, False)
    assert found["true"]["tokens"] == found["false"]["tokens"]
    assert [len(tokens) for tokens in found["true"]["tokens"]] == [STEPS] * PROMPTS
