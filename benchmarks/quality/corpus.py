"""Tokens of real text on this machine, for training a small language model: the input of lm_train.py.

Usage: corpus.py FOLDER [--tokens 28000000] [--vocabulary 8192]

Text: the Python standard library's sources, Debian's packaged documentation and English manual pages, then
the sources of installed Python packages until there is enough. Every file once, split by file: a held-out
file is trained on nowhere, and one that shares more than a fifth of its long lines with any training file is
dropped. The tokenizer (byte-level BPE) is trained on the training files alone. Writes train.npz and
heldout.npz (`tokens`, uint16, deflated), tokenizer.json and corpus.json, which says what is in them.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import json
import random
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import ByteLevelBPETokenizer

SEPARATOR = "<|endoftext|>"
HELD_OUT = 0.03
"""The share of files that are held out."""
SHARED = 0.2
"""The share of its long lines that a held-out file may have in common with training files."""
LONG_LINE = 40
LONGEST_FILE = 400_000
SEED = 0

_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_ROFF = re.compile(r"^[.'][A-Za-z]*\\?\"?.*$|\\f[A-Z]|\\", re.MULTILINE)
_BLANK = re.compile(r"\n\s*\n\s*")


@dataclass(frozen=True)
class Source:
    """Text files below a folder.

    Attributes:
        name: in corpus.json.
        folder: to look in, with all folders below.
        suffixes: of the files to read, before a ``.gz``.
        without: parts of paths that are left out.
    """

    name: str
    folder: Path
    suffixes: tuple[str, ...]
    without: tuple[str, ...] = ()

    def files(self) -> list[Path]:
        """The files in a fixed, shuffled order."""
        found = (path for path in self.folder.rglob("*") if self._wanted(path))
        paths = sorted(path for path in found if path.is_file() and not path.is_symlink())
        random.Random(SEED).shuffle(paths)
        return paths

    def _wanted(self, path: Path) -> bool:
        name = path.name.removesuffix(".gz")
        return name.endswith(self.suffixes) and not any(part in str(path) for part in self.without)


def sources() -> list[Source]:
    """Where there is text, the most wanted first."""
    # The folder that numpy is in: an environment may take its packages from another.
    stdlib, packages = Path(sysconfig.get_path("stdlib")), Path(np.__file__).parents[1]
    prose = (".txt", ".md", ".rst", ".html", "README", "NEWS", "FAQ")
    return [
        Source(
            "python standard library", stdlib, (".py", ".txt", ".rst"), ("site-packages", "lib2to3/tests")
        ),
        Source("debian documentation", Path("/usr/share/doc"), prose, ("copyright", "hangelog")),
        Source("debian manual pages", Path("/usr/share/man/man1"), (".1",), ("gcloud",)),
        Source("manual pages of formats", Path("/usr/share/man/man5"), (".5",)),
        Source("manual pages of administration", Path("/usr/share/man/man8"), (".8",)),
        Source("installed python packages", packages, (".py", ".rst", ".md"), ("/test", "_generated")),
    ]


def read(path: Path) -> str:
    """The text of a file, without markup; empty where it is no text."""
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (UnicodeDecodeError, OSError, EOFError):
        return ""
    name = path.name.removesuffix(".gz")
    if name.endswith(".html"):
        text = html.unescape(_TAGS.sub(" ", text))
    elif re.search(r"\.[1-8]$", name):
        text = _ROFF.sub("", text)
    return _BLANK.sub("\n\n", text).strip()


@dataclass
class Split:
    """The source and text of each file."""

    files: list[tuple[str, str]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """Of all files."""
        return [text for _, text in self.files]

    def add(self, source: str, text: str) -> None:
        """Take a file in."""
        self.files.append((source, text))

    def characters(self) -> dict[str, int]:
        """Of each source."""
        found: dict[str, int] = {}
        for source, text in self.files:
            found[source] = found.get(source, 0) + len(text)
        return found


def collect(characters: int) -> tuple[Split, Split, int]:
    """Training and held-out files of about so many characters, and how many held-out files were dropped."""
    train, held = Split(), Split()
    for source, text, digest in _texts(characters):
        (held if digest % 1000 < 1000 * HELD_OUT else train).add(source, text)
    known = {line for text in train.texts for line in _long_lines(text)}
    kept = Split()
    for source, text in held.files:
        if _shared(text, known) <= SHARED:
            kept.add(source, text)
    return train, kept, len(held.files) - len(kept.files)


def _texts(characters: int) -> Iterator[tuple[str, str, int]]:
    """Source, text and digest of each distinct file."""
    seen: set[int] = set()
    found = 0
    for source in sources():
        for path in source.files():
            text = read(path)[:LONGEST_FILE]
            digest = int.from_bytes(hashlib.sha256(" ".join(text.split()).encode()).digest()[:8], "big")
            if len(text) < 500 or digest in seen:
                continue
            seen.add(digest)
            found += len(text)
            yield source.name, text, digest
            if found >= characters:
                return


def _long_lines(text: str) -> set[int]:
    return {hash(line) for raw in text.splitlines() if len(line := raw.strip()) >= LONG_LINE}


def _shared(text: str, known: set[int]) -> float:
    lines = _long_lines(text)
    return len(lines & known) / len(lines) if lines else 1.0


def encode(tokenizer: ByteLevelBPETokenizer, texts: Sequence[str], most: int) -> np.ndarray:
    """At most `most` token ids, uint16, of texts in a fixed, shuffled order, a separator after each."""
    order = random.Random(SEED).sample(range(len(texts)), len(texts))
    end = tokenizer.token_to_id(SEPARATOR)
    parts, count = [], 0
    for start in range(0, len(order), 512):
        for encoding in tokenizer.encode_batch([texts[index] for index in order[start : start + 512]]):
            parts.append(np.array([*encoding.ids, end], dtype=np.uint16))
            count += len(parts[-1])
        if count >= most:
            break
    return np.concatenate(parts)[:most]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=28_000_000, help="of the training split, at most")
    parser.add_argument("--vocabulary", type=int, default=8192)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    train, held, dropped = collect(int(4.5 * options.tokens))
    tokenizer = ByteLevelBPETokenizer()
    sample = random.Random(SEED).sample(train.texts, min(len(train.texts), 4000))
    tokenizer.train_from_iterator(
        sample, vocab_size=options.vocabulary, special_tokens=[SEPARATOR], show_progress=False
    )
    tokenizer.save(str(options.folder / "tokenizer.json"))
    report: dict[str, object] = {"vocabulary": options.vocabulary, "held_out_files_dropped": dropped}
    for name, split, most in (("train", train, options.tokens), ("heldout", held, options.tokens // 20)):
        tokens = encode(tokenizer, split.texts, most)
        np.savez_compressed(options.folder / f"{name}.npz", tokens=tokens)
        report[name] = {
            "tokens": len(tokens),
            "files": len(split.files),
            "characters": split.characters(),
            "sha256": hashlib.sha256(tokens.tobytes()).hexdigest(),
        }
    (options.folder / "corpus.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
