"""The files about the project: what they name exists, and the version stands in one place."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from sparseflow.cli.exit_codes import EXIT_CODES
from sparseflow.cli.main import app
from sparseflow.support.version import __version__

ROOT = Path(__file__).parents[3]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
COMMAND = ROOT / "docs" / "reference" / "output.md"


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    (read,) = project["tool"]["dynamic-metadata"]
    assert f'__version__ = "{__version__}"' in (ROOT / read["input"]).read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == __version__


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda f: f.stem
)
def test_issue_templates_are_forms(file):
    form = yaml.safe_load(file.read_text())
    if file.stem == "config":
        assert form["blank_issues_enabled"] in (True, False)
        return
    assert {"name", "description", "body"} <= set(form)
    for field in form["body"]:
        assert field["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)


def test_make_has_every_target_that_contributing_names():
    spans = re.findall(r"`make ([^`]*)`", CONTRIBUTING) + re.findall(
        r"^    make ([a-z ]+?)  ", CONTRIBUTING, re.M
    )
    named = {word for words in spans for word in words.split() if "=" not in word}
    found = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"env", "build", "check", "test", "fuzz", "lock", "sanitize"} <= named
    assert named - found == set()


def test_contributing_names_files_and_options_that_exist():
    paths = set(
        re.findall(r"`((?:tools|test|docs|stubs|passes|runtime|benchmarks|\.github)/[\w./-]*)", CONTRIBUTING)
    )
    paths |= set(re.findall(r"\]\(([\w./-]+)\)", CONTRIBUTING))
    made = ("benchmarks/results/fuzz.json",)
    assert [path for path in sorted(paths) if path not in made and not (ROOT / path).exists()] == []
    for script, options in re.findall(r"`(tools/\w+\.py)([^`]*)`", CONTRIBUTING):
        sources = "".join(file.read_text() for file in (ROOT / "tools").glob("*.py"))
        assert [one for one in re.findall(r"--[a-z-]+", options) if f'"{one}"' not in sources] == [], script


def test_the_commands_that_contributing_starts_with_are_there():
    block = re.findall(r"^    (make [a-z ]+?)  +#", CONTRIBUTING, re.MULTILINE)
    assert len(block) >= 4
    for command in block:
        # Dry: what make would run, without running it.
        done = subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_page_of_the_command_has_every_command_and_exit_code():
    import typer.main

    def leaves(command, words):
        inner = getattr(command, "commands", {})
        return [name for key, one in inner.items() for name in leaves(one, [*words, key])] or [
            " ".join(words)
        ]

    page = COMMAND.read_text()
    assert [name for name in leaves(typer.main.get_command(app), []) if f"`{name}`" not in page] == []
    assert [code for code in EXIT_CODES if f"| {code} |" not in page] == []
