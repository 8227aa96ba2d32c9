"""A client of an OpenAI-compatible server that sends completions at a rate and times their tokens.

Prompts are token ids, so that no tokenizer is needed, and every answer has the length that is asked for.
Requests start after exponential gaps, as if independent users sent them (Poisson arrivals).
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparseflow.errors import ArgumentError


@dataclass(frozen=True)
class Requests:
    """What is asked of a server.

    Attributes:
        count: of requests.
        prompt: tokens of each prompt.
        answer: tokens of each answer.
        vocabulary: token ids are below this, and at least 3.
        seed: of the prompts and the gaps.
    """

    count: int
    prompt: int
    answer: int
    vocabulary: int = 1000
    seed: int = 0

    def prompts(self) -> list[list[int]]:
        """Return the prompts, all different and the same for every server."""
        numbers = random.Random(self.seed)
        return [
            [numbers.randrange(3, self.vocabulary) for _ in range(self.prompt)] for _ in range(self.count)
        ]

    def starts(self, rate: float) -> list[float]:
        """Return when each request is sent, in seconds after the first.

        Args:
            rate: requests a second; infinite: all at once.
        """
        if rate == float("inf"):
            return [0.0] * self.count
        numbers, at, found = random.Random(self.seed), 0.0, []
        for _ in range(self.count):
            found.append(at)
            at += numbers.expovariate(rate)
        return found


@dataclass(frozen=True)
class Answer:
    """The times of one answer, in seconds since the first request was due.

    Attributes:
        sent: when the request was sent.
        first: when its first token came.
        last: when its last token came.
        tokens: how many there were.
    """

    sent: float
    first: float
    last: float
    tokens: int


def drive(port: int, model: str, requests: Requests, rate: float) -> list[Answer]:
    """Send requests to a server on this machine, and return when the answers came.

    Raises:
        ArgumentError: the server refused a request, or broke off an answer.
    """
    return asyncio.run(_drive(port, model, requests, rate))


async def _drive(port: int, model: str, requests: Requests, rate: float) -> list[Answer]:
    begun = time.perf_counter()
    asked = [
        _ask(port, {**_body(model, requests), "prompt": prompt}, begun, start)
        for prompt, start in zip(requests.prompts(), requests.starts(rate), strict=True)
    ]
    return list(await asyncio.gather(*asked))


def _body(model: str, requests: Requests) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": requests.answer,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _ask(port: int, body: dict[str, Any], begun: float, start: float) -> Answer:
    await asyncio.sleep(max(0.0, begun + start - time.perf_counter()))
    sent = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_post(json.dumps(body).encode()))
        await writer.drain()
        first, last, tokens = await _read(reader)
        writer.close()
    except OSError as error:
        raise _failed(f"the connection broke: {error}") from error
    return Answer(sent - begun, first - begun, last - begun, tokens)


def _post(payload: bytes) -> bytes:
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def _read(reader: asyncio.StreamReader) -> tuple[float, float, int]:
    """Read a stream of server-sent events; return when the first and last token came, and how many did.

    Lines between the events, such as the sizes of HTTP's chunks, are passed over.
    """
    status = (await reader.readline()).decode(errors="replace").split()
    if status[1:2] != ["200"]:
        rest = (await reader.read()).decode(errors="replace")
        raise _failed(f"it answered {' '.join(status[1:]) or 'nothing'}: {rest[-300:]}")
    first = last = 0.0
    tokens = 0
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        now, event = time.perf_counter(), json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise _failed(str(event["error"])[:300])
        if event.get("choices"):
            first, last = first or now, now
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not tokens:
        raise _failed("an answer ended before it said how many tokens it has")
    return first, last, tokens


def _failed(reason: str) -> ArgumentError:
    return ArgumentError("bench serve: the server", reason, "look into its log: --log FILE")


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Return what the answers say of a server: throughput, and percentiles of waiting.

    ``ttft_…_ms`` is from a request to its first token, ``tpot_…_ms`` from one token to the next, the mean of
    each answer.
    """
    seconds = max(answer.last for answer in answers) - min(answer.sent for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    first = [1e3 * (answer.first - answer.sent) for answer in answers]
    between = [1e3 * (a.last - a.first) / (a.tokens - 1) for a in answers if a.tokens > 1]
    return {
        "requests_s": len(answers) / seconds,
        "tokens_s": tokens / seconds,
        **_percentiles("ttft", first),
        **_percentiles("tpot", between),
    }


def _percentiles(name: str, values: Iterable[float]) -> dict[str, float]:
    found = sorted(values)
    if len(found) < 2:
        return dict.fromkeys((f"{name}_p50_ms", f"{name}_p99_ms"), found[0] if found else float("nan"))
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return {f"{name}_p50_ms": cuts[49], f"{name}_p99_ms": cuts[98]}
