"""Speaks the tuner's protocol without a GPU, and misbehaves as its argument says. Run as a program.

The scenario, a JSON object, has: count, algorithms of the library; do, what happens at a candidate; final,
at its last turn; start, at the start; slow, seconds for a point; plans, at building them together; garbage,
whether lines that are no messages come between; after, the exit status once a point is done; done, changes
to a point's last message; stray, a candidate reported unasked; refuse, M's that the library refuses; log, a
file with a line for each start and each candidate.
"""

import json
import os
import signal
import sys
import time

scenario = json.loads(sys.argv[1])


def log(text):
    with open(scenario["log"], "a") as file:
        file.write(text + "\n")


def say(kind, **fields):
    if scenario.get("garbage"):
        print("a library's banner\n\n{\n[1]\nnull\n" + '{"say": "trying"}\n{"say": 3}\n\xff', flush=True)
    print(json.dumps({"say": kind, **fields}), flush=True)


def die(how):
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "exit":
        print("first\nCUDA error: an illegal instruction was encountered\n", file=sys.stderr, flush=True)
        sys.exit(3)
    elif how == "hang":
        time.sleep(600)


def attempt(algorithm, split_k):
    key = {"backend": "cusparselt", "algorithm": algorithm, "split_k": split_k}
    say("trying", **key)
    log(f"{algorithm} {split_k}")
    how = scenario.get("do", {}).get(f"{algorithm} {split_k}")
    die(how)
    good = {"us": 30.0 - algorithm - 0.5 * split_k, "rel_err": 1e-4}
    lies = {"negative": {"us": -1.0}, "nan": {"us": float("nan")}, "text": {"us": "fast"}}
    lies |= {"nan error": {"rel_err": float("nan")}, "wrong": {"rel_err": 0.3}}
    if how in ("refused", "context"):
        say("failed", **key, why="the library's words")
        if how == "context":
            sys.exit(3)
        return []
    said = key | good | lies.get(how, {})
    say("measured", **said)
    return [] if how in lies else [said]


def measure(request):
    say("doing", what="making the weights")
    time.sleep(scenario.get("slow", 0))
    if request["m"] in scenario.get("refuse", []):
        return say("refused", why="the library has no such product")
    say("count", candidates={"cusparselt": scenario["count"]})
    say("doing", what="building plans")
    if request["together"]:
        die(scenario.get("plans"))
    known = {(c["algorithm"], c["split_k"]): c for c in request["known"]}
    only = request["only"] or [["cusparselt", a, s] for a in range(scenario["count"]) for s in (0, -1)]
    for algorithm in range(scenario["count"]):
        for split_k in (0, -1)[: 1 + (algorithm == 1)]:
            key = (algorithm, split_k)
            if ["cusparselt", *key] not in only:
                continue
            if key not in known and ["cusparselt", *key] not in request["skip"]:
                known.update((key, c) for c in attempt(*key))
    if "stray" in scenario:
        algorithm, split_k = scenario["stray"]
        say("measured", backend="cusparselt", algorithm=algorithm, split_k=split_k, us=0.1, rel_err=0.0)
    best = sorted(known.values(), key=lambda c: c["us"])[:4]
    for c in best:
        say("trying", backend="cusparselt", algorithm=c["algorithm"], split_k=c["split_k"])
        die(scenario.get("final", {}).get(f"{c['algorithm']} {c['split_k']}"))
    fp8 = request["dtype"] == "float8_e4m3fn"
    last = {
        "dense_us": 20.0,
        "unpacked_us": 25.0,
        "dense_bf16_us": 40.0 if fp8 else None,
        "candidates": best,
        "unscaled_us": 0.5 * best[0]["us"] if fp8 and best else None,
    }
    say("done", **(last | scenario.get("done", {})))
    return sys.exit(scenario["after"]) if "after" in scenario else None


log("start")
print("warming up", file=sys.stderr, flush=True)
die(scenario.get("start"))
say("ready", cusparselt="0.10.0")
for line in sys.stdin:
    measure(json.loads(line))
