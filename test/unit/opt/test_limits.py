"""sparseflow-opt as a command: what takes too much is an error, with the place, and soon."""

import subprocess
import sys

import pytest

from sparseflow.errors import ParseError
from sparseflow.tools.limits import Limits
from sparseflow.tools.source import read_chunks

DRIVER = "import sys; from sparseflow.tools.opt import console_main; console_main()"
GUARDED = """
import os, signal
from sparseflow.tools.limits import Limits, doing, guarded

def main():
    doing("a.mlir:7: reading")
    {what}

os._exit(guarded(main, Limits({seconds}, {memory})))
"""


def guarded(what, seconds=20, memory=1 << 33):
    code = GUARDED.format(what=what, seconds=seconds, memory=memory)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def drive(*args, text=""):
    words = [sys.executable, "-c", DRIVER, *args]
    return subprocess.run(words, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_childs_exit_code_and_output_are_the_commands(code):
    done = guarded(f"print('text'); return {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "text\n", "")


@pytest.mark.parametrize(
    ("what", "limits", "said"),
    [
        ("while True: pass", {"seconds": 1}, "took more than 1 s of the processor"),
        ("os.abort()", {}, "most likely as it needed more than 8 GB"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", {}, "the process ended with SIGSEGV"),
    ],
)
def test_what_ends_the_child_is_told_with_the_place_it_was_at(what, limits, said):
    done = guarded(what, **limits)
    assert done.returncode == 1
    assert "sparseflow-opt: error: a.mlir:7: reading: " in done.stderr
    assert said in done.stderr


def test_more_memory_than_allowed_is_refused():
    done = guarded("try: bytearray(1 << 31)\n    except MemoryError: print('refused')", memory=1 << 30)
    assert done.stdout == "refused\n"


def test_limits_grow_with_the_input():
    small, large = Limits.for_input(100), Limits.for_input(10_000_000)
    assert small.seconds < 10
    assert large.seconds > 10 * small.seconds
    assert large.memory > 5 * small.memory


def test_stdin_and_misuse_reach_the_driver_behind_the_guard():
    assert drive(text="module {}").stdout == "module {\n}\n"
    assert drive(text="").returncode == 1
    assert drive("--nope=1", text="module {}").returncode == 2
    assert drive("-o").returncode == 2
    assert drive("--help").returncode == 0
    assert drive("--no-limits", text="module {}").stdout == "module {\n}\n"


@pytest.mark.parametrize(
    "text",
    [
        "%a#99999",
        "\n %a#4294967295",
        '"//" %a#99999 // %a#1',
        "".join(f"%a{i}#1000 " for i in range(100)),
    ],
)
def test_results_that_cannot_exist_are_refused_with_the_line(text, tmp_path):
    path = tmp_path / "a.mlir"
    path.write_text(text)
    with pytest.raises(ParseError, match="names a result that can't exist") as caught:
        list(read_chunks(str(path), split=False))
    assert caught.value.subject.startswith(f"{path}:{2 if text.startswith(chr(10)) else 1}:")


@pytest.mark.parametrize(
    "text", ["// %a#99999", '"%a#99999"', "%a#7", "%a#1000 " + "i1, " * 1000, "%a#1000" * 200]
)
def test_results_that_may_exist_are_left_to_mlir(text, tmp_path):
    path = tmp_path / "a.mlir"
    path.write_text(text)
    assert [chunk.content for chunk in read_chunks(str(path), split=False)] == [text]
