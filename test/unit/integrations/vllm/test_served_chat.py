"""`vllm serve` over a model that `sparseflow prune` pruned answers as transformers does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import vllm_engines as engines

ROOT = Path(__file__).parents[4]
WORDS = ["What", "is", "the", "capital", "of", "France", "?", "Paris"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    vocabulary |= {f"w{place}": place for place in range(len(vocabulary), 96)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(tmp_path / "chat")
    model = engines.model("llama")
    model.config.max_position_embeddings = 256  # what the server is started for
    model.save_pretrained(tmp_path / "chat")
    return tmp_path / "chat"


def test_a_chat_request_is_answered_with_the_tokens_of_transformers(folder: Path, tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "serve_chat.py"
    command = [sys.executable, str(script), str(folder), "--policy", "sparse", "--results", str(tmp_path)]
    shown = {**os.environ, "VLLM_LOGGING_LEVEL": "INFO"}  # what our layers do is said there
    done = subprocess.run(command, env=shown, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    (row,) = json.loads((tmp_path / "serve_chat.json").read_text())["rows"]
    assert row["same_tokens"]
    assert row["tokens"]
    assert any("linear layers run 2:4" in line for line in row["layers"])
