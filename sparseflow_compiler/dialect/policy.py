"""The ``policy`` of a sparse layer: which backend runs for how many rows."""

from __future__ import annotations

from itertools import pairwise

from sparseflow.runtime.backends import Backend


def parse_policy(text: str) -> tuple[tuple[int, Backend], ...]:
    """Read a policy such as ``1:cpu,512:dense``: from M rows on, that backend. Empty: always sparse.

    Raises:
        ValueError: the text is malformed; the message says how.
    """
    ranges = tuple(_parse_range(part) for part in text.split(",")) if text else ()
    starts = [start for start, _ in ranges]
    if starts and starts[0] > 1:
        raise ValueError(f"policy '{text}' starts at M = {starts[0]}, which leaves M = 1 without a backend")
    if any(a >= b for a, b in pairwise(starts)):
        raise ValueError(f"policy '{text}' doesn't rise: a range must start above the one before")
    return ranges


def _parse_range(text: str) -> tuple[int, Backend]:
    start, colon, name = (part.strip() for part in text.partition(":"))
    if not colon or not (start.isascii() and start.isdigit()):
        raise ValueError(f"policy range '{text}' isn't of the form M:backend")
    try:
        return int(start), Backend[name.upper()]
    except KeyError:
        known = ", ".join(backend.name.lower() for backend in Backend)
        raise ValueError(f"policy range '{text}' names no backend; known: {known}") from None


def encode_policy(text: str) -> list[int]:
    """The ``[m0, b0, m1, b1, …]`` that ``torch.sparseflow.linear`` takes.

    Raises:
        ValueError: the text is malformed.
    """
    return [number for start, backend in parse_policy(text) for number in (start, int(backend))]
