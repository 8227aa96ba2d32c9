"""Write the documents' tables from benchmarks/results/*.json, or check that they are current.

Usage: readme_tables.py [--check] FILE…

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a result file without its suffix,
or NAME.full for all of its columns. A figure in a document is therefore one that a script measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
Rows = list[dict[str, Any]]
SOME_M = (1, 4, 16, 64, 256, 1024, 4096, 16384)


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def gemm_cpu(rows: Rows) -> str:
    """Speed-up of what dispatch runs over F.linear; one block a mode."""
    text = ""
    for mode in dict.fromkeys(row["mode"] for row in rows):
        chosen = [row for row in rows if row["mode"] == mode]
        cells = {(r["dtype"], r["N"], r["K"], r["M"]): r["speedup_dispatched"] for r in chosen}
        sizes = sorted({key[3] for key in cells})
        body = [
            [dtype, f"{n}×{k}", *(_times(cells.get((dtype, n, k, m))) for m in sizes)]
            for dtype, n, k in dict.fromkeys(key[:3] for key in cells)
        ]
        heading = f"{mode} ({chosen[0]['isa']}; torch {chosen[0]['torch_isa']})"
        text += f"\n{heading}:\n\n" + markdown(["dtype", "N×K", *(f"M={m}" for m in sizes)], body)
    return text + "\n"


_H200 = {
    "speedup": "memory mode fast (a dense copy is kept where dense wins)",
    "speedup_compressed": "memory mode compressed (no dense copy)",
    "torch_default_us": "torch's own 2:4, its default algorithm",
    "torch_searched_us": "torch's own 2:4, the algorithm its search finds",
}


def gemm_h200(rows: Rows) -> str:
    """Speed-up over dense on the device by shape and M: ours in both memory modes, then torch's own 2:4."""
    text = ""
    for dtype, (field, what) in itertools.product(dict.fromkeys(r["dtype"] for r in rows), _H200.items()):
        chosen = [row for row in rows if row["dtype"] == dtype and row.get(field)]
        if not chosen:
            continue
        cells = {
            (r["N"], r["K"], r["M"]): r[field] if field.startswith("speedup") else r["dense_us"] / r[field]
            for r in chosen
        }
        sizes = sorted({key[2] for key in cells})
        body = [
            [f"{n}×{k}", *(_times(cells.get((n, k, m))) for m in sizes)]
            for n, k in dict.fromkeys(key[:2] for key in cells)
        ]
        heading = what if dtype != "float8_e4m3fn" else "over dense fp8"
        text += f"\n{dtype}, {heading}:\n\n" + markdown(["N×K", *(f"M={m}" for m in sizes)], body)
    return text + "\n"


def skinny_h200(rows: Rows) -> str:
    """The own kernel: over dense, the share of a copy's bandwidth, over cuSPARSELt where that was tuned."""
    text = ""
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        chosen = [row for row in rows if row["dtype"] == dtype]
        cells = {(r["N"], r["K"], r["M"]): _skinny_cell(r) for r in chosen}
        sizes = sorted({key[2] for key in cells})
        body = [
            [f"{n}×{k}", *(cells.get((n, k, m), "") for m in sizes)]
            for n, k in dict.fromkeys(key[:2] for key in cells)
        ]
        heading = "over dense · share of a copy's bandwidth · over cuSPARSELt's best"
        text += f"\n{dtype}, {heading}:\n\n" + markdown(["N×K", *(f"M={m}" for m in sizes)], body)
    return text + "\n"


def _skinny_cell(row: dict[str, Any]) -> str:
    theirs = "" if row["over_cusparselt"] is None else f" · {_times(row['over_cusparselt'])}"
    missed = "" if row["met"] or row["dtype"] != "bfloat16" else f" (asked {row['target']})"
    return f"{_times(row['speedup'])} · {100 * row['share_of_copy']:.0f} %{theirs}{missed}"


def model_h200(rows: Rows) -> str:
    """Whole models: dense through torch.compile beside ours, and the ceiling of faster products."""
    body = [
        [
            row["model"],
            row["phase"],
            str(row.get("batch", "")),
            str(row.get("seq", "")),
            *(f"{row[side]:.3f} ms" if row.get(side) else "" for side in ("dense_ms", "ours_ms")),
            _times(row.get("speedup")),
            _times(row.get("ceiling_speedup")),
            f"≥ {row['target']}×" if row.get("target") else "",
        ]
        for row in rows
    ]
    headings = ["model", "phase", "batch", "tokens", "dense", "ours", "speed-up", "ceiling", "asked"]
    return "\n" + markdown(headings, body) + "\n"


def quality_encoder(rows: Rows) -> str:
    """The pretrained encoder after each method, all linear layers of its blocks 2:4 or some blocks dense."""
    body = [
        [
            row["method"] + (" + permutation" if row["permute"] else ""),
            row["reconstruct"] or "",
            str(row["dense_blocks"]),
            str(row["seed"]),
            f"{row['cosine']:.3f}",
            f"{row['overlap']:.3f}",
        ]
        for row in sorted(rows, key=lambda row: (row["dense_blocks"], row["seed"], row["cosine"]))
    ]
    headings = ["method", "reconstruction", "dense blocks", "seed", "cosine", "neighbours"]
    return "\n" + markdown(headings, body) + "\n"


def memory_h200(rows: Rows) -> str:
    """What the sparse layers' weights take on the GPU."""
    body = [[row["meter"], str(row["layers"]), f"{row['ratio']:.3f}", f"≤ {row['target']}"] for row in rows]
    return "\n" + markdown(["measured by", "sparse layers", "of their dense bytes", "target"], body) + "\n"


def host_h200(rows: Rows) -> str:
    """Host cost of a call, and of the first at an unseen M."""
    body = [
        [
            row["what"],
            row["dtype"],
            str(row.get("M", "")),
            f"{row['value']:.3g} {row['unit']}",
            f"≤ {row['target']}",
        ]
        for row in rows
    ]
    return "\n" + markdown(["what", "dtype", "M", "measured", "target"], body) + "\n"


def compile_cpu(rows: Rows) -> str:
    """One line a figure of the compile benchmark."""
    body = [[row["what"], f"{row['value']:.3g} {row['unit']}", row["target"]] for row in rows]
    return "\n" + markdown(["what", "measured", "target"], body) + "\n"


def load_cpu(rows: Rows) -> str:
    """Loading an artifact beside reading its bytes."""
    body = [
        [
            f"{row['bytes'] / 1e9:.2f} GB, {row['layers']} layers",
            row["cache"],
            *(f"{row[side]:.3f} s" for side in ("read", "load", "sha256")),
            _times(row["ratio"]),
            _times(row["ratio_cpu"]),
            f"≤ {row['target']}×",
        ]
        for row in rows
    ]
    headings = [
        "artifact",
        "page cache",
        "read",
        "load",
        "SHA-256 alone",
        "load over read",
        "in CPU time",
        "asked",
    ]
    return "\n" + markdown(headings, body) + "\n"


TABLES: dict[str, Callable[[Rows], str]] = {
    "gemm_cpu": gemm_cpu,
    "gemm_cpu_epyc": gemm_cpu,
    "compile_cpu": compile_cpu,
    "gemm_h200": gemm_h200,
    "host_h200": host_h200,
    "load_cpu": load_cpu,
    "memory_h200": memory_h200,
    "model_h200": model_h200,
    "quality_encoder": quality_encoder,
    "skinny_h200": skinny_h200,
}


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def render(text: str) -> str:
    """`text` with every marked table rewritten from its result file."""

    def table(match: re.Match[str]) -> str:
        start, table_name, end = match.groups()
        name, _, full = table_name.partition(".")
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        meta, rows = result["meta"], result["rows"]
        if not full:
            rows = [row for row in rows if row.get("M", 1) in SOME_M or "N" not in row]
        alone = f"{meta['date'][:10]}, `{meta['command']}`"
        parts = [f"{what} ({count} rows)" for what, count in meta.get("parts", {}).items()]
        source = f"\n{meta['device']}, {'; '.join(parts) or alone}\n"
        return f"{start}{source}{TABLES[name](rows)}{end}"

    return MARKED.sub(table, text)


def main() -> int:
    """Rewrite or check; exit code 1 when a checked file is stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    return max(refresh(path, check=options.check) for path in options.files)


def refresh(path: Path, *, check: bool) -> int:
    """Rewrite one file, or say that it is stale; 1 for a stale one."""
    old = path.read_text(encoding="utf-8")
    new = render(old)
    if check and new != old:
        print(f"{path}: its tables differ from benchmarks/results; run `make docs`", file=sys.stderr)
        return 1
    if not check:
        path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
