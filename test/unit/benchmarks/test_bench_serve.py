"""`sparseflow bench serve` against a stand-in for vLLM's server: what is sent, timed, said and refused."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from sparseflow.bench import vllm_server
from sparseflow.bench.completions_client import Answer, Requests, figures
from sparseflow.bench.serve import Contender, Plan, at_once, serve_rows, serve_table
from sparseflow.errors import ArgumentError, MissingDependencyError

SERVER = '''
"""Speaks as vLLM's server does: each token an event, usage in the last one."""
import http.server, json, os, sys, time

OPTIONS = sys.argv[1:]
if "--slow" in OPTIONS:
    print("gpu", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    print("started", time.time(), flush=True)
    time.sleep(0.5)
if "--break-at-start" in OPTIONS:
    sys.exit("no such model")
SPARSE = "--quantization" in OPTIONS


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        cache = 'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0'
        self.answer(200, ("# HELP\\n" + cache + "\\n").encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        os.write(1, f"post {time.time()}\\n".encode())  # at once: other threads write too
        assert body["ignore_eos"] and body["model"] == "model" and min(body["prompt"]) >= 3
        if "--refuse" in OPTIONS:
            return self.answer(400, b"too long")
        self.send_response(200)
        self.end_headers()
        for _ in range(body["max_tokens"]):
            time.sleep(0.001 if SPARSE else 0.02)
            self.event({"choices": [{"text": "x"}]})
        if "--break-off" not in OPTIONS:
            self.event({"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
            self.wfile.write(b"data: [DONE]\\n\\n")

    def answer(self, status, data):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(data)

    def event(self, found):
        self.wfile.write(b"2a\\r\\ndata: " + json.dumps(found).encode() + b"\\n\\n\\r\\n")

    def log_message(self, *args):
        pass


port = int(OPTIONS[OPTIONS.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch) -> None:
    """A package of vLLM's name for the processes that are started."""
    folder = tmp_path / "path" / "vllm" / "entrypoints" / "cli"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: SimpleNamespace() if n == "vllm" else find(n)
    )
    entry = SimpleNamespace(name="sparseflow")
    monkeypatch.setattr(vllm_server.importlib.metadata, "entry_points", lambda group: [entry])


def run(*options: str):
    from sparseflow.cli.bench import bench

    return CliRunner().invoke(bench, ["serve", "models/dense", *options], catch_exceptions=True)


@pytest.mark.usefixtures("vllm")
def test_both_sides_are_measured_at_every_rate(tmp_path) -> None:
    found = run(
        "--requests", "6", "--answer", "5", "--prompt", "8", "--json", "--plot", str(tmp_path / "c.svg")
    )
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)["rows"]
    assert [row["side"] for row in rows] == ["dense"] * 5 + ["sparse"] * 5
    rates = [row["rate"] for row in rows]
    assert rates[:5] == rates[5:]
    most = rows[0]["requests_s"]
    assert rates[1:5] == [pytest.approx(share * most, rel=0.06) for share in (0.25, 0.5, 0.75, 1.0)]
    dense, sparse = rows[0], rows[5]
    assert rates[0] is None
    assert 10 < dense["tpot_p50_ms"] < 1000  # a token comes after 20, give or take what threads wait
    assert sparse["tpot_p50_ms"] < dense["tpot_p50_ms"]
    assert (dense["kv_tokens"], dense["requests"], dense["answer"]) == (1600, 6, 5)
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    text = serve_table(rows)
    assert "better by" in text
    assert "all at once" in text
    assert "1600 tokens in the cache" in text


@pytest.mark.usefixtures("vllm")
def test_servers_on_two_gpus_start_at_once_and_are_measured_in_turn(tmp_path) -> None:
    """The stand-in takes half a second to start; the file that each wrote says which GPU it saw."""
    options = ["--vllm", "--slow", "--gpu", "3", "--gpu", "1", "--rate", "200", "--rate", "50"]
    found = run(
        "--requests", "4", "--answer", "3", "--prompt", "4", "--json", *options, "--log", str(tmp_path)
    )
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)["rows"]
    assert [(row["side"], row["rate"]) for row in rows] == [
        (side, rate) for side in ("dense", "sparse") for rate in (None, 50, 200)
    ]
    said = {side: (tmp_path / f"{side}.log").read_text().splitlines() for side in ("dense", "sparse")}
    assert [said[side][0] for side in said] == ["gpu 3", "gpu 1"]
    times = {side: [float(line.split()[1]) for line in said[side][1:]] for side in said}
    begun = {side: times[side][0] for side in said}
    assert abs(begun["dense"] - begun["sparse"]) < 0.45
    # Warming up, then four requests all at once and at each rate: a side's are over before the other's come.
    posts = sorted((at, side) for side in said for at in times[side][1:])
    assert [side for _, side in posts] == (["dense"] * 4 + ["sparse"] * 4) * 4


@pytest.mark.usefixtures("vllm")
def test_the_deadline_leaves_out_rates_and_says_so(tmp_path) -> None:
    plan = Plan(Requests(4, 4, 3), [100.0, 0.1], 1, 60, tmp_path, deadline=time.monotonic() + 20)
    sides = Contender("dense", Path("m"), gpu="0"), Contender("sparse", Path("m"), serving={}, gpu="1")
    *_, rows = serve_rows(*sides, plan)
    assert {row["rate"] for row in rows} == {None, 100.0}
    (line,) = plan.left_out
    assert line.startswith("round 1, 0.1/s: it would take")


def test_fewer_requests_are_sent_where_the_rate_is_low(tmp_path) -> None:
    plan = Plan(Requests(100, 4, 4), [], 1, 60, tmp_path, sending=10.0)
    assert [plan.asked(rate).count for rate in (0.1, 2.0, 50.0, math.inf)] == [8, 20, 100, 100]


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("options", "text"),
    [("--break-at-start", "no such model"), ("--refuse", "400"), ("--break-off", "how many tokens")],
)
def test_what_a_server_refuses_is_said(options, text) -> None:
    found = run("--requests", "2", "--answer", "2", "--prompt", "4", "--vllm", options)
    assert found.exit_code != 0
    assert isinstance(found.exception, ArgumentError)
    assert text in str(found.exception)


def test_without_vllm_its_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *a: None)
    with pytest.raises(MissingDependencyError, match=r"sparseflow\[vllm\]"):
        vllm_server.require_vllm(plugin=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *a: SimpleNamespace())
    monkeypatch.setattr(vllm_server.importlib.metadata, "entry_points", lambda group: [])
    with pytest.raises(ArgumentError, match="no entry point of sparseflow"):
        vllm_server.require_vllm(plugin=True)
    vllm_server.require_vllm(plugin=False)


@pytest.mark.parametrize(
    "option", [("--cache", "0"), ("--rate", "0"), ("--requests", "0"), ("--vocabulary", "3"), ("--gpu", "0")]
)
def test_wrong_options_are_refused(option) -> None:
    found = run(*option)
    assert isinstance(found.exception, ArgumentError)


def test_requests_are_the_same_each_time_and_have_their_rate() -> None:
    asked = Requests(400, 4, 4)
    assert asked.prompts() == asked.prompts()
    assert len({tuple(prompt) for prompt in asked.prompts()}) == 400
    starts = asked.starts(10.0)
    assert starts == asked.starts(10.0) == sorted(starts)
    assert 30 < starts[-1] < 50
    assert set(asked.starts(math.inf)) == {0.0}


def test_figures() -> None:
    answers = [Answer(i, i + 0.5, i + 2.5, 11) for i in range(5)]
    found = figures(answers)
    assert found["requests_s"] == pytest.approx(5 / 6.5)
    assert found["tokens_s"] == pytest.approx(55 / 6.5)
    assert found["ttft_p50_ms"] == pytest.approx(500)
    assert found["tpot_p99_ms"] == pytest.approx(200)
    assert figures(answers[:1])["tpot_p50_ms"] == pytest.approx(200)


def test_the_sparse_side_is_served_by_our_method() -> None:
    options = Contender("sparse", Path("m"), ["--x"], {"prune": "magnitude"}).arguments()
    assert options[:2] == ["--quantization", "sparseflow"]
    assert json.loads(options[3]) == {"sparseflow": {"prune": "magnitude"}}
    assert Contender("dense", Path("m"), ["--x"]).arguments() == ["--x"]


def test_servers_with_caches_of_a_size_run_at_once_on_one_gpu() -> None:
    dense = Contender("dense", Path("m"), ["--x"], cache=1 << 30)
    assert dense.arguments()[:3] == ["--x", "--kv-cache-memory-bytes", str(1 << 30)]
    sparse = Contender("sparse", Path("m"), cache=1 << 30)
    assert at_once(dense, sparse)
    assert not at_once(dense, Contender("sparse", Path("m")))
