"""A warm interpreter runs code as a fresh one does, and what fails in it is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import warm_tools
from isolated import warm

SAME = {
    "output": "print('out'); import sys; print('err', file=sys.stderr)",
    "exit code": "import sys; sys.exit(3)",
    "exit text": "import sys; sys.exit('no')",
    "error": "{}['key']",
    "place": "import os, sys; print(sys.argv, repr(sys.path[0]), os.getcwd(), __name__)",
    "environment": "import os; print(os.environ['ASKED'], len(os.environ))",
    "input": "import sys; print(sys.stdin.read().upper())",
    "closed output": "import sys; print('out'); sys.stdout.close()",
}


def outcome(python, code, folder, monkeypatch):
    monkeypatch.setenv("ASKED", "é = 1")
    done = subprocess.run(
        [*python, "-c", code, "", "two words"], cwd=folder, capture_output=True, text=True, input="in"
    )
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


@pytest.mark.parametrize("code", SAME.values(), ids=SAME)
def test_it_does_what_a_fresh_one_does(code, tmp_path, monkeypatch):
    warmed = outcome(warm(("json",)), code, tmp_path, monkeypatch)
    assert warmed == outcome([sys.executable], code, tmp_path, monkeypatch)


def test_a_process_that_dies_is_seen(tmp_path, monkeypatch):
    assert outcome(warm(("json",)), "import os; os.abort()", tmp_path, monkeypatch)[0] == warm_tools.DIED


def test_each_has_a_process_of_its_own(tmp_path, monkeypatch):
    code = "import json; print(hasattr(json, 'seen')); json.seen = True"
    for _ in range(2):
        assert outcome(warm(("json",)), code, tmp_path, monkeypatch)[1] == "False\n"


@pytest.mark.parametrize("kind", ["script", "module"])
def test_scripts_and_modules_run_too(kind, tmp_path, monkeypatch):
    path = tmp_path / "program.py"
    path.write_text("import sys; print(sys.argv, sys.path[0]); sys.exit(4)")
    words = [str(path)] if kind == "script" else ["-m", "program"]
    results = [
        subprocess.run([*python, *words, "x"], cwd=tmp_path, capture_output=True, text=True)
        for python in (warm(("json",)), [sys.executable])
    ]
    assert results[0].stdout == results[1].stdout
    assert [done.returncode for done in results] == [4, 4]


def test_those_who_share_a_server_use_it_until_the_last_of_them_ends(tmp_path):
    code = (
        "import sys, warm_tools\n"
        "address = warm_tools.shared(['json'], [sys.executable], sys.argv[1])\n"
        "print(flush=True)\n"
        "while line := sys.stdin.readline():\n"
        "    warm_tools.call(address, ['-c', 'import os; print(os.getppid(), flush=True)'])\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "server")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    users = [subprocess.Popen(words, **pipes, cwd=Path(warm_tools.__file__).parent) for _ in range(2)]
    for user in users:
        assert user.stdout.readline() == "\n"
    asked = []
    for user in users:
        user.stdin.write("\n")
        user.stdin.flush()
        asked.append(user.stdout.readline())
    users[0].stdin.close()  # one of them started it
    users[1].stdin.write("\n")
    users[1].stdin.flush()
    asked.append(users[1].stdout.readline())
    users[1].stdin.close()
    assert [user.wait(timeout=60) for user in users] == [0, 0]
    assert len(set(asked)) == 1
    assert not (tmp_path / "server").exists()
