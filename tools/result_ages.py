"""Refuse a benchmark result that is older than what it measures, unless a note says why it stands.

Usage: result_ages.py [--list]

A result was made at the commit that its `meta` names; one from before results named it, at the commit that
wrote it last. `SOURCES` says which folders each result depends on: it is too old where one of them changed
after that commit. `benchmarks/results/notes.toml` has, under the result's name, `date` and `why` of each that
stands all the same; a note whose result was made anew is named, for it to be deleted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("benchmarks/results")
NOTES = "notes.toml"

CPU = ("runtime/csrc/cpu", "runtime/csrc/common")
GPU = ("runtime/csrc/cuda", "runtime/csrc/common")
TUNER = ("runtime/tuning", "runtime/dispatch")
SOURCES: dict[str, tuple[str, ...]] = {
    "compile_cpu": CPU,
    "contextual_cpu": CPU,
    "contextual_cpu_busy_host": CPU,
    "contextual_cpu_small_pages": CPU,
    "contextual_h200": GPU,
    "contextual_model_cpu_float32": CPU,
    "cost_model_h200": TUNER,
    "decode_attention_h200": ("runtime/csrc/cuda/attention",),
    "columns_cpu": CPU,
    "columns_h200": ("runtime/csrc/cuda/contextual",),
    "decode_cpu": (*CPU, "sparseflow_compiler/execution"),
    "decode_cpu_zen4": (*CPU, "sparseflow_compiler/execution"),
    "decode_h200": (*GPU, "sparseflow_compiler/execution"),
    "default_cpu": CPU,
    "default_cpu_xeon": CPU,
    "default_cpu_xeon_2_cores": CPU,
    "default_h200": (*GPU, *TUNER),
    "fp8_ends_h200": ("runtime/csrc/cuda",),
    "fuzz": (),  # counts what was tried, by its date
    "gemm_cpu": CPU,
    "gemm_cpu_epyc": CPU,
    "gemm_h200": GPU,
    "host_h200": ("runtime/csrc/cuda",),
    "load_cpu": ("runtime/artifact",),
    "memory_h200": ("runtime/formats",),
    "model_h200": (*GPU, *TUNER),
    "model_small_tuned_h200": (*GPU, *TUNER),
    "noise_cpu": ("runtime/dispatch",),
    "patterns_h200": ("runtime/csrc/cuda/patterns",),
    "prompt_h200": ("runtime/attention",),
    "prune_speed_h200": ("sparseflow_compiler/pruning",),
    "quality_activations_h200": ("sparseflow_compiler/contextual/activations",),
    "quality_contextual": ("sparseflow_compiler/contextual",),
    "quality_encoder": ("sparseflow_compiler/pruning",),
    "quality_encoder_finetune_h200": ("sparseflow_compiler/pruning", "sparseflow_compiler/finetune"),
    "quality_encoder_recover_h200": ("sparseflow_compiler/pruning", "sparseflow_compiler/finetune"),
    "quality_fp8_h200": ("sparseflow_compiler/pruning",),
    "quality_lm_h200": ("sparseflow_compiler/pruning",),
    "quality_lm_train_h200": (),  # a dense model of its own, trained once
    "quality_patterns_h200": ("sparseflow_compiler/pruning",),
    "quality_smollm2_h200": ("sparseflow_compiler/pruning", "sparseflow_compiler/finetune"),
    "quality_wrappers_cpu": (),  # a study of a form that nothing is stored in
    "quality_wrappers_cpu_long": (),
    "quick_tuning_h200": TUNER,
    "same_tokens_cpu": CPU,
    "same_tokens_smollm2_cpu": CPU,
    "serve_chat": (),  # what a server answered, no speed
    "serve_fp8_h200": (*GPU, "sparseflow_compiler/integrations/vllm"),
    "serve_h200": (*GPU, "sparseflow_compiler/integrations/vllm"),
    "skinny_h200": GPU,
    "vllm_columns_h200": ("runtime/csrc/cuda", "sparseflow_compiler/integrations/vllm"),
    "vllm_h200": (*GPU, "sparseflow_compiler/integrations/vllm"),
    "vllm_steps_fp8_h200": (*GPU, "sparseflow_compiler/integrations/vllm"),
    "vllm_steps_h200": (*GPU, "sparseflow_compiler/integrations/vllm"),
    "vllm_load_h200": ("sparseflow_compiler/integrations/vllm",),
    "wide_h200": ("runtime/csrc/cuda/wide",),
}
"""The folders whose change makes a result too old."""


@dataclass(frozen=True)
class Age:
    """How a result stands to its sources.

    Attributes:
        name: the result's file, without suffix.
        commit: where it was made.
        named: the result names it itself.
        since: the commits that changed its sources afterwards, newest first.
    """

    name: str
    commit: str
    named: bool
    since: tuple[str, ...]


def age(root: Path, name: str, sources: tuple[str, ...]) -> Age:
    """Find what changed after a result was made.

    Raises:
        LookupError: git knows neither the file nor the commit that it names.
    """
    path = RESULTS / f"{name}.json"
    meta = json.loads((root / path).read_text(encoding="utf-8"))["meta"]
    said = str(meta.get("commit", "unknown")).removesuffix("+")
    named = said != "unknown"
    commit = said if named else _git(root, "log", "-1", "--format=%H", "--", str(path)).strip()
    if not commit:  # written, not committed yet: nothing is newer
        return Age(name, "HEAD", named, ())
    since = _git(root, "log", "--format=%h %s", f"{commit}..HEAD", "--", *sources) if sources else ""
    return Age(name, commit, named, tuple(since.splitlines()))


def ages(root: Path, sources: dict[str, tuple[str, ...]]) -> list[Age]:
    """Return how every result that is there stands to its sources."""
    there = {path.stem for path in (root / RESULTS).glob("*.json")}
    return [age(root, name, folders) for name, folders in sources.items() if name in there]


def problems(root: Path, sources: dict[str, tuple[str, ...]], notes: dict[str, dict[str, str]]) -> list[str]:
    """Return a sentence for each result that must not stand."""
    found = []
    names = sorted(path.stem for path in (root / RESULTS).glob("*.json"))
    for name in names:
        if name not in sources:
            found.append(f"{name}: tools/result_ages.py doesn't say which sources it depends on")
            continue
        one = age(root, name, sources[name])
        if one.since and not notes.get(name, {}).get("why"):
            found.append(
                f"{name}: made at {one.commit[:10]}, and {len(one.since)} commits changed "
                f"{', '.join(sources[name])} since, the last {one.since[0]!r}: measure it again, or say in "
                f"{RESULTS / NOTES} why it stands"
            )
    return found


def spent_notes(
    root: Path, sources: dict[str, tuple[str, ...]], notes: dict[str, dict[str, str]]
) -> list[str]:
    """Return the notes of results that are there no more, or were made anew."""
    there = {path.stem for path in (root / RESULTS).glob("*.json")}
    return [name for name in notes if name not in there or not age(root, name, sources.get(name, ())).since]


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookupError(done.stderr.strip())
    return done.stdout


def main() -> int:
    """Check every result, or list how old each is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--list", action="store_true", help="list results, their commits and what came after")
    given = parser.parse_args()
    try:
        if _git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
            raise LookupError("the clone is shallow")
    except (LookupError, FileNotFoundError) as error:
        print(f"result_ages: not checked, for want of the history: {error}")
        return 0
    if given.list:
        for one in ages(ROOT, SOURCES):
            where = "named" if one.named else "of the file"
            print(f"{one.name:32} {one.commit[:10]} ({where}), {len(one.since)} changes of its sources since")
        return 0
    notes = tomllib.loads((ROOT / RESULTS / NOTES).read_text(encoding="utf-8"))
    for name in spent_notes(ROOT, SOURCES, notes):
        print(f"{name}: its note in {RESULTS / NOTES} is of an older result: delete it")
    found = problems(ROOT, SOURCES, notes)
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
