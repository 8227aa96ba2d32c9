"""What the README and the documentation say runs, and their figures come from results."""

from __future__ import annotations

from pathlib import Path

import pytest
from blocks import read_blocks, run_blocks

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [path for path in PAGES if list(read_blocks(path.read_text()))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    skipped = [block.skip for block in read_blocks(page.read_text()) if block.skip]
    if not run_blocks(page):
        pytest.skip("; ".join(skipped))


def test_a_block_that_fails_is_reported_by_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- setup\nx = 1\n-->\n```python\nassert x == 1\nraise KeyError(x)\n```\n")
    with pytest.raises(KeyError) as caught:
        run_blocks(page)
    assert caught.traceback[-1].lineno + 1 == 8
    page.write_text("```bash\nfalse | true\n```\n")
    with pytest.raises(AssertionError):
        run_blocks(page)
