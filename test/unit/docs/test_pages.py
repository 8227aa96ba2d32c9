"""What a stranger checks: the README is short, links lead somewhere, no page is an orphan."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINKING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
ROOMS = ("start", "guides", "reference", "design")

_CODE = re.compile(r"^```.*?^```$|^<!--.*?-->$|``[^\n]*?``|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def links(page):
    """The targets of a page's links and pictures that are files of ours: (path, anchor)."""
    for found in _LINK.finditer(_CODE.sub("", page.read_text())):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if "://" not in target and not target.startswith("mailto:"):
            yield (page.parent / target).resolve() if target else page, anchor


def anchors(page):
    """The anchors of a page's headings, as GitHub and Python-Markdown both write them."""
    return {slug(heading) for heading in _HEADING.findall(_FENCE.sub("", page.read_text()))}


def slug(heading):
    text = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def broken(page):
    for path, anchor in links(page):
        if not path.exists():
            yield f"{path} is not there"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            yield f"{path.name} has no #{anchor}"


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_resolve(page):
    assert list(broken(page)) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](page.md#b) [c](none.md)\n`[d](none.md)`\n")
    assert [text.split("/")[-1] for text in broken(page)] == ["page.md has no #b", "none.md is not there"]


def test_every_page_is_in_the_navigation_of_the_site_once():
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_every_page_is_linked_from_another():
    linked = {path for page in LINKING for path, _ in links(page) if path != page}
    assert [str(page.relative_to(DOCS)) for page in PAGES if page not in linked] == ["index.md"]


def test_every_page_stands_in_a_room():
    assert {page.relative_to(DOCS).parts[0] for page in PAGES} == {*ROOMS, "index.md"}


def test_every_path_that_the_sources_name_is_there():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("no git checkout")
    named = re.compile(r"docs/[\w/-]+\.(?:md|svg)")
    lost = set()
    for name in tracked.stdout.split("\0"):
        if name.endswith(
            (".py", ".md", ".h", ".cpp", ".cu", ".cuh", ".yml", ".toml", ".sh", "Makefile", ".ipynb")
        ):
            path = ROOT / name
            found = named.findall(path.read_text()) if path.is_file() else []
            lost |= {(name, each) for each in found if not (ROOT / each).exists()}
    assert lost == set()


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("tool", ["readme_tables.py README.md docs", "speed_chart.py docs/assets"])
def test_tables_figures_and_chart_are_current(tool):
    name, *paths = tool.split()
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / name, "--check", *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
