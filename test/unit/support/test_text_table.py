"""Tables fit any width and lose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseflow.support.text_table import body, fill, text_table

COLUMNS = (("layer", "left"), ("N×K", "right"), ("reason", "left"))
ROWS = [
    ("model.layers.{0–31}.mlp.gate_proj ×32", "14336×4096", "measured, and it is fast [at M=1]"),
    ("lm_head", "128256×4096", ""),
]
NARROW = 12
"""The longest word of a number; nothing fits less."""


@pytest.mark.parametrize("width", [NARROW + 2, 20, 40, 60, 80, 100, 10_000])
def test_lines_fit_and_no_cell_is_cut(width):
    text = text_table("A title [with] brackets", COLUMNS, ROWS, ["a note of several words"], width)
    assert max(map(len, text.splitlines())) <= width
    whole = "".join(text.split())
    # A folded cell's letters have those of other columns between them.
    cells = [cell for row in ROWS for cell in row] if width in (20, 40, 60, 100, 10_000) else ["lm_head"]
    assert [cell for cell in cells if "".join(cell.split()) not in whole] == []


def test_columns_that_do_not_fit_become_records():
    assert body(COLUMNS, ROWS, 60).splitlines() == [
        "model.layers.{0–31}.mlp.gate_proj ×32",
        "  N×K 14336×4096  reason measured, and it is fast [at M=1]",
        "lm_head",
        "  N×K 128256×4096",
    ]
    assert body(COLUMNS, ROWS, 100).splitlines()[0].split() == ["layer", "N×K", "reason"]


def test_a_table_without_headings_has_no_line_for_them():
    assert body((("", "left"), ("", "right")), [("dense", "2 MB"), ("now", "1 MB")], 80).splitlines() == [
        "dense  2 MB",
        "now    1 MB",
    ]
    assert body(COLUMNS, [], 80).splitlines()[0].split() == ["layer", "N×K", "reason"]


@given(
    st.lists(st.tuples(*[st.text("ab ×[]–", max_size=40)] * 3), max_size=4),
    st.integers(min_value=8, max_value=120),
)
def test_any_cells_in_any_width(rows, width):
    text = body(COLUMNS, rows, width)
    assert all(len(line) <= width for line in text.splitlines())
    for row in rows:
        assert set("".join(row)) - {" "} <= set(text)


def test_lines_of_a_sentence_stay_lines():
    assert fill("one two\nthree", 5) == "one\n  two\nthree"
    assert fill("", 5) == ""
