"""The code blocks of a Markdown page, run in order like a reader would.

What a page leaves out stands before a block in comments that it doesn't show: ``<!-- setup`` and Python;
``<!-- skip: reason -->`` for one that can't run here; ``<!-- needs: module -->`` for one that waits for it.
"""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from isolated import warm_path

_PART = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$"
    r"|^<!-- skip: (?P<skip>[^\n]+) -->$"
    r"|^<!-- needs: (?P<needs>[\w.]+) -->$"
    r"|^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
RUN = ("python", "bash")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    skip: str = ""


def read_blocks(text):
    """The blocks that run, and those that are skipped with a reason."""
    skip = ""
    for match in _PART.finditer(text):
        found = match.groupdict()
        if found["setup"] is not None:
            yield Block("python", found["setup"], _line(text, match.start("setup")))
        elif found["skip"] or found["needs"]:
            skip = found["skip"] or _missing(found["needs"])
        else:
            if found["language"] in RUN:
                yield Block(found["language"], found["code"], _line(text, match.start("code")), skip)
            skip = ""


def run_blocks(page: Path) -> int:
    """Run the blocks of a page in the current folder, Python in one namespace; how many ran."""
    names, ran = {"__name__": page.stem}, 0
    for block in read_blocks(page.read_text()):
        if block.skip:
            continue
        if block.language == "python":
            # Lines of a traceback are the page's; pickles and dataclasses want a module.
            code = compile("\n" * (block.line - 1) + block.code, page, "exec")
            exec(code, names)
        else:
            run_bash(block.code)
        ran += 1
    return ran


def run_bash(code):
    path = os.pathsep.join((str(warm_path()), str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def _missing(module):
    parent = module.rpartition(".")[0]
    there = (not parent or importlib.util.find_spec(parent)) and importlib.util.find_spec(module)
    return "" if there else f"waits for {module}"


def _line(text, at):
    return text.count("\n", 0, at) + 1
