"""The tables of whole decoding steps and of their attention."""

from __future__ import annotations

from _table import Rows, markdown


def decode(rows: Rows) -> str:
    """A step of compiled generation beside its floor, and tokens a second beside dense sides."""
    body = [
        [
            row.get("side") or f"{row['model']}, {row['layers']} layers",
            f"{row['format']}, {row['dtype']}, head {row['lm_head']}" if "dtype" in row else row["format"],
            str(row["batch"]),
            str(row["context"]),
            f"{row['device_ms']:.2f} ms",
            f"{row['floor_ms']:.2f} ms" if "floor_ms" in row else "",
            f"{row['of_floor']:.2f}×" if "of_floor" in row else "",
            f"{row['tokens_s']:.1f}",
            _number(row.get("torch_compile_tokens_s")),
            _number(row.get("dense_tokens_s")),
            f"{row['first_ms']:.1f} ms",
        ]
        for row in rows
    ]
    headings = [
        "model", "weights", "batch", "context", "step", "floor", "over its floor", "tokens/s",
        "torch.compile", "eager", "first token",
    ]  # fmt: skip
    return "\n" + markdown(headings, body) + "\n"


def decode_attention(rows: Rows) -> str:
    """Attention of one query a sequence, in microseconds, beside torch's ways and the floor."""
    sides = ("ours", "sdpa_mask", "flash_varlen", "flex", "floor", "target")
    body = [
        [
            *(str(row[name]) for name in ("batch", "context", "capacity")),
            *(_number(row[f"{side}_us"]) for side in sides),
        ]
        for row in rows
    ]
    headings = [
        "batch", "context", "capacity", "ours", "SDPA with a mask", "FlashAttention", "flex_attention",
        "floor", "asked",
    ]  # fmt: skip
    return "\n" + markdown(headings, body) + "\n"


def prompt(rows: Rows) -> str:
    """Time to the first token beside eager, and a layer's attention over the cache beside torch's ways."""
    sides = ("first", "dense_first", "attention", "masked", "causal")
    body = [
        [
            f"{row['model']}, {row['layers']} layers",
            *(str(row[name]) for name in ("batch", "context", "capacity")),
            *(f"{row[f'{side}_ms']:.2f} ms" for side in sides),
            f"{row['dense_first_ms'] / row['first_ms']:.2f}×",
        ]
        for row in rows
    ]
    headings = [
        "model", "batch", "prompt", "cache", "first token", "eager's", "attention", "with a mask",
        "causal, without a cache", "over eager",
    ]  # fmt: skip
    return "\n" + markdown(headings, body) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
