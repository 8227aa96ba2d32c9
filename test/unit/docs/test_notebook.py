"""The demo notebook runs from top to bottom in a kernel of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_notebook_runs():
    words = [sys.executable, str(ROOT / "tools" / "run_notebook.py"), "--check"]
    done = subprocess.run(
        [*words, str(ROOT / "demo" / "SparseFlow_Demo.ipynb")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
