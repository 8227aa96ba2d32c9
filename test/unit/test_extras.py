"""Without the package of an extra, every public door says which extra installs it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from isolated import warm_python

from sparseflow.errors import MissingDependencyError
from sparseflow.support.extras import EXTRAS, refusal

ROOT = Path(__file__).parents[2]

HIDE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())

from types import ModuleType
from sparseflow.errors import MissingDependencyError

def refuses(door, call):
    try:
        call()
    except MissingDependencyError as error:
        assert f'pip install "sparseflow[{EXTRA}]"' in str(error), error
    else:
        raise AssertionError(f"{door} did not refuse")

def walk(package, seen, refused):
    # Every name either loads or names the extra.
    for name in getattr(package, "__all__", ()):
        try:
            found = getattr(package, name)
        except MissingDependencyError as error:
            assert f"sparseflow[{EXTRA}]" in str(error), error
            refused.append(name)
            continue
        if isinstance(found, ModuleType) and found not in seen:
            seen.append(found)
            walk(found, seen, refused)
    return refused

import sparseflow as sf
refused = walk(sf, [], [])
"""

DOORS = {
    "torch_mlir": """
        import torch
        from sparseflow.cli.main import main
        from sparseflow.tools import opt
        assert refused == ["train_predictor"], refused
        model = torch.nn.Sequential(torch.nn.Linear(64, 64)).eval()
        x = torch.randn(3, 64)
        refuses("compile", lambda: sf.compile(model)(x))
        refuses("compile, captured", lambda: sf.compile(model, (x,)))
        refuses("torch.compile", lambda: torch.compile(model, backend="sparseflow")(x))
        refuses("profile", lambda: sf.profile(model, (x,)))
        refuses("tune", lambda: sf.tune(model, (x,)))
        assert opt.main(["-", "--canonicalize"]) == 1
        assert main(["bench", "contextual", "--help"]) == 0
        sf.prune(model, "magnitude")
    """,
    "transformers": """
        import torch
        from pathlib import Path
        from sparseflow.cli.main import main
        assert sorted(refused) == ["MaskCallback", "SparseFlowConfig"], refused
        Path("config.json").write_text('{"model_type": "llama"}')
        assert main(["prune", ".", "out"]) == 1
        assert main(["compile", ".", "out"]) == 1
        model = torch.nn.Sequential(torch.nn.Linear(64, 64)).eval()
        sf.prune(model, "magnitude")
        sf.nn
    """,
    "matplotlib": """
        from sparseflow.reports.page import Page
        from sparseflow.reports.png import png
        assert refused == [], refused
        refuses("png", lambda: png(Page("title", (), ())))
    """,
}


@pytest.mark.parametrize("package", DOORS)
def test_every_door_names_the_extra_of_a_package_that_is_missing(tmp_path, package):
    head = f"HIDDEN, EXTRA = {package!r}, {EXTRAS[package]!r}\n{HIDE}"
    done = warm_python(head + "\n".join(line.strip() for line in DOORS[package].splitlines()), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    if package in ("torch_mlir", "transformers"):  # the commands print
        assert f'pip install "sparseflow[{EXTRAS[package]}]"' in done.stderr, done.stderr


def test_extras_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, extra in EXTRAS.items():
        wanted = project["optional-dependencies"][extra]
        assert any(text.startswith(package.replace("_", "-")) for text in wanted), (package, wanted)


def test_what_is_of_no_extra_stays_what_it_was():
    assert refusal("x", ModuleNotFoundError("No module named 'y'", name="y")) is None
    assert refusal("x", ImportError("cannot import name 'y'")) is None
    assert refusal("x", MissingDependencyError("a", "b", "c")) is None
