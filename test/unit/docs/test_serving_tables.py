"""The tables of what vLLM serves, from rows as the benchmarks write them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

TOOLS = str(Path(__file__).parents[3] / "tools")


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    yield importlib.import_module("tables_serving")
    sys.modules.pop("tables_serving", None)


def served(side: str, rate: float | None, tokens: float, **more: object) -> dict[str, object]:
    waits = dict.fromkeys(("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms"), 12.3)
    return {"side": side, "rate": rate, "tokens_s": tokens, "own_gpus": True, **waits, **more}


def test_a_rate_that_one_side_lacks_has_no_line(tables) -> None:
    rows = [served("dense", None, 100.0), served("dense", 2.0, 50.0), served("sparse", None, 150.0)]
    text = tables.serve(rows)
    assert "| all at once | 100 → 150 | 1.50× |" in text
    assert "2/s" not in text
    assert "a GPU of its own" in text
    assert "a GPU of its own" not in tables.serve([{**row, "own_gpus": False} for row in rows])


def test_an_engine_has_its_memory(tables) -> None:
    row = {"format": "2:4", "phase": "decode", "batch": 8, "seq": 1024, "own_gpus": True}
    row |= {"dense_ms": 6.0, "dense_same_ms": None, "ours_ms": 4.0}
    row |= {"weight_bytes": 6 * 2**30, "dense_weight_bytes": 12 * 2**30}
    row |= {"kv_tokens": 110, "dense_kv_tokens": 100}
    text = tables.vllm([row])
    assert "| 2:4 | a step of decoding | 8×1024 | 6.00 ms |  | 4.00 ms | 1.50× |  |" in text
    assert "| 2:4 | 12.00 → 6.00 GiB | 0.50× | 100 → 110 | 1.10× |" in text
    assert "engine had a GPU of its own" in text
    assert "GiB" not in tables.vllm([{name: row[name] for name in row if "bytes" not in name}])


def test_ways_of_loading_are_lines(tables) -> None:
    row: dict[str, object] = {"layers": 32}
    for prefix, seconds, size in (("dense_", 2.0, 16e9), ("packing_", 3.0, 16e9), ("", 2.2, 9e9)):
        row |= {f"{prefix}load_s": seconds, f"{prefix}bytes": size, f"{prefix}weight_bytes": size}
    lines = tables.load([row]).strip().splitlines()
    assert len(lines) == 5
    assert lines[-1] == "| 32 | packed folder | 2.2 s | 1.10× | 9.00 GB | 9.00 GB | 0.56× |"
