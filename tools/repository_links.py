"""Write where a release comes from into pyproject.toml and README.md, before it is built.

Usage: repository_links.py REPOSITORY TAG

REPOSITORY is an address such as https://github.com/OWNER/NAME. The sources name none: it is known where a
release is made, and whoever forks the project publishes their own. PyPI shows README.md,
where links to files of the checkout lead nowhere; they become links to the tag.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)\s]+)(?=\))")
_PICTURE = re.compile(r'(?<=(?:src|set)=")(?!https?://)([^"]+)(?=")')


def project_urls(repository: str, tag: str) -> str:
    """Return the table `[project.urls]` of a release, by the names that PyPI knows."""
    pages = {
        "Source": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    return "\n".join(["[project.urls]", *(f'{name} = "{page}"' for name, page in pages.items()), "", ""])


def with_urls(pyproject: str, repository: str, tag: str) -> str:
    """Return the text of pyproject.toml with the project's addresses.

    Raises:
        SystemExit: it has some, or no `[project.scripts]` to put them before.
    """
    before, place, after = pyproject.partition("[project.scripts]\n")
    if not place or "[project.urls]" in pyproject:
        raise SystemExit("pyproject.toml has [project.urls] already, or no [project.scripts]")
    return before + project_urls(repository, tag) + place + after


def with_absolute_links(page: str, repository: str, tag: str) -> str:
    """Return a page of Markdown whose links and pictures name files of the checkout by their address."""
    linked = _LINK.sub(rf"{repository}/blob/{tag}/\1", page)
    return _PICTURE.sub(rf"{repository}/raw/{tag}/\1", linked)


def main() -> None:
    """Rewrite both files of the checkout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("repository")
    parser.add_argument("tag")
    given = parser.parse_args()
    repository = given.repository.rstrip("/")
    for name, changed in (("pyproject.toml", with_urls), ("README.md", with_absolute_links)):
        file = ROOT / name
        file.write_text(changed(file.read_text(encoding="utf-8"), repository, given.tag), encoding="utf-8")


if __name__ == "__main__":
    main()
