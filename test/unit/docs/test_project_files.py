"""The files about the project: what they name exists, and the version stands in one place."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
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
COMMAND = ROOT / "docs/guides/command-line.md"


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    (read,) = project["tool"]["dynamic-metadata"]
    assert f'__version__ = "{__version__}"' in (ROOT / read["input"]).read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == __version__


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_release_is_refused_whose_tag_is_not_the_version():
    steps = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["build"]["steps"]
    (check,) = (step["run"] for step in steps if "version.py" in step.get("run", ""))
    for tag, wanted in ((f"v{__version__}", 0), (f"v{__version__}.1", 1), (__version__, 1)):
        done = subprocess.run(["bash", "-ec", check], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": tag})
        assert done.returncode == wanted, tag


def test_a_release_names_the_repository_that_it_is_made_in():
    links, home = tool("repository_links"), "https://example.org/a/b"
    source = (ROOT / "pyproject.toml").read_text()
    assert "urls" not in tomllib.loads(source)["project"]
    made = links.with_urls(source, home, "v1")
    project = tomllib.loads(made)["project"]
    assert project["urls"]["Changelog"] == f"{home}/blob/v1/CHANGELOG.md"
    assert {name: value for name, value in project.items() if name != "urls"} == tomllib.loads(source)[
        "project"
    ]
    with pytest.raises(SystemExit):
        links.with_urls(made, home, "v1")

    page = links.with_absolute_links((ROOT / "README.md").read_text(), home, "v1")
    targets = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", page)
    assert len(targets) > 20
    for target in map("".join, targets):
        assert target.startswith("https://")
        kept = re.fullmatch(rf"{home}/(?:blob|raw)/v1/([^#]+)(#.*)?", target)
        assert kept, target
        assert (ROOT / kept[1]).exists()


def test_the_wheel_for_cpus_has_a_version_of_its_own(tmp_path):
    wheels = tool("wheels")
    copy = Path(shutil.copy(ROOT / "sparseflow_compiler" / "support" / "version.py", tmp_path))
    wheels._set_local_version(copy, "cpu")
    assert f'__version__ = "{__version__}+cpu"' in copy.read_text()
    with pytest.raises(SystemExit):
        wheels._set_local_version(copy, "cpu")


FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
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
    spans = re.findall(r"`make ([^`]*)`", CONTRIBUTING)
    spans += re.findall(r"^    make ([a-z ]+?)  ", CONTRIBUTING, re.MULTILINE)
    named = {word for words in spans for word in words.split() if "=" not in word}
    found = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"env", "build", "check", "test", "fuzz", "lock", "sanitize"} <= named
    assert named - found == set()


def test_contributing_names_files_and_options_that_exist():
    rooms = r"tools|test|docs|stubs|passes|runtime|benchmarks|\.github"
    paths = set(re.findall(rf"`((?:{rooms})/[\w./-]*)", CONTRIBUTING))
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
        found = [name for key, one in inner.items() for name in leaves(one, [*words, key])]
        return found or [" ".join(words)]

    page = COMMAND.read_text()
    assert [name for name in leaves(typer.main.get_command(app), []) if f"`{name}`" not in page] == []
    assert [code for code in EXIT_CODES if f"| {code} |" not in page] == []
