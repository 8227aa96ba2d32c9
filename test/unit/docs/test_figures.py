"""Single figures of documents: what a query finds, and what it says where nothing was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROWS = [
    {"phase": "decode", "batch": 1, "speedup": 1.5},
    {"phase": "decode", "batch": 16, "speedup": 2.417},
    {"phase": "prefill, fp8", "batch": 4, "speedup": None, "cosine": 0.98765},
]


@pytest.fixture(scope="module")
def figures():
    path = Path(__file__).parents[3] / "tools" / "figures.py"
    spec = importlib.util.spec_from_file_location("figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"meta": {}, "rows": ROWS}))
    return tmp_path


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("model batch=1 speedup", "1.50×"),
        ("model phase=decode speedup", "1.50–2.42×"),
        ("model 'phase=prefill, fp8' cosine:.3f", "0.988"),
        ("model batch>=2 batch<=16 phase=decode speedup:.1f", "2.4"),
        ("model batch=4 speedup", "not measured yet"),
        ("model batch=2 speedup", "not measured yet"),
        ("elsewhere batch=1 speedup", "not measured yet"),
    ],
)
def test_a_query_finds_the_figure(figures, results, query, text):
    assert figures.figure(query, results) == text


def test_a_malformed_condition_is_refused(figures, results):
    with pytest.raises(ValueError, match="'batch' is no condition"):
        figures.figure("model batch speedup", results)


def test_a_figure_in_a_page_is_rewritten_where_it_stands(figures, results):
    page = "is\n<!-- figure: model batch=1 speedup -->9×<!-- end --> faster, not <!-- end -->\n"
    written = figures.render(page, results)
    assert written == page.replace("9×", "1.50×")
    assert figures.render(written, results) == written
