"""The demo notebook runs from top to bottom in a kernel of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from isolated import TRANSFORMERS, warm

ROOT = Path(__file__).parents[3]


def test_the_notebook_runs(tmp_path):
    # The kernel of the notebook's name, in a process that has imported torch and transformers.
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [*warm(TRANSFORMERS), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": command, "display_name": "warm", "language": "python"}))
    words = [sys.executable, str(ROOT / "tools" / "run_notebook.py"), "--check"]
    done = subprocess.run(
        [*words, str(ROOT / "demo" / "SparseFlow_Demo.ipynb")],
        capture_output=True,
        text=True,
        env=os.environ | {"JUPYTER_PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
