"""Pages of what commands and benchmarks write: what they show, and what they refuse."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparseflow.cli.main import main
from sparseflow.errors import ArgumentError
from sparseflow.reports import WRITERS, Source, page_of, read
from sparseflow.reports.page import Cell, HeatMap, Pies, Table
from sparseflow.reports.report import FormatError, LayerReport, Range, Report

ROOT = Path(__file__).parents[3]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
RANGES = (Range(1, 15, "cpu", 1.75), Range(16, None, "dense", 0.93))
LOST = FormatError(0.02, None)
REPORT = Report(
    [
        LayerReport(
            "block.q", 64, 32, "f32", "sparse", "pruned; merged", RANGES, 8192, 4608, 0.31, "2:4-fp8", LOST
        ),
        LayerReport("block.k", 64, 32, "f32", "sparse", "pruned; merged", RANGES, 8192, 4608, 0.35, "2:4"),
        LayerReport("<b>head</b>", 9, 32, "f32", "dense", "left out by 'skip' | so", (), 1152, 1152, 0.0),
    ],
    {
        "name": "Tiny & <script>",
        "programs": 1,
        "prune": "magnitude",
        "bytes_dense": 17536,
        "bytes": 10368,
        "compilations": {"seconds": {"capture": 1.5, "pack": 0.25}},
    },
)
PROFILE = {
    "meta": {"model": "tiny", "device": "CPU"},
    "gemm_share": 75.0,
    "gemm_speedup": 1.5,
    "ceiling": 1.33,
    "reached": 1.2,
    **{
        side: {
            "title": side,
            "us": {"GEMM": 75.0, "other": 25.0},
            "shares": {"GEMM": 75.0, "other": 25.0},
            "kernels": [{"name": "mm", "kind": "GEMM", "us": 75.0, "calls": 1}],
        }
        for side in ("dense", "compiled")
    },
}


class Tags(HTMLParser):
    """Tags that were opened and not closed, and every attribute."""

    VOID = ("meta", "br", "rect", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def compiled():
    return page_of([Source("report", json.loads(json.dumps(REPORT.to_dict())))])


def html(page):
    return WRITERS["html"](page).decode()


def piece(page, kind):
    return next(found for found in page.pieces if isinstance(found, kind))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_every_result_file_becomes_a_page_that_asks_nobody_for_anything(file):
    text = html(page_of([read(file)]))
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not {name for name, _ in tags.attributes} & {"src", "href", "srcset", "action", "data"}
    assert not re.search(r"url\(|@import|<script|https?://", text)
    assert WRITERS["md"](page_of([read(file)])).startswith(b"# ")


def test_a_heat_map_shows_the_speedup_of_the_range_that_each_m_falls_into():
    heat = piece(compiled(), HeatMap)
    assert heat.rows == ("64×32 q, k",)
    texts = dict(zip(heat.columns, (cell.text for cell in heat.cells[0]), strict=True))
    assert (texts["1"], texts["8"], texts["16"], texts["1024"]) == ("1.75", "1.75", "0.93", "0.93")
    assert [Cell(v).strength for v in (2.0, 4.0, 1.0, 0.5, None)] == [1, 1, 0, -1, 0]


def test_a_compilation_shows_memory_quality_and_every_layer():
    text = html(compiled())
    for shown in ("2 of 3", "0.591×", "0.02 MB", "0.350", "block.k", "1–15 cpu 1.75×", "capture"):
        assert shown in text
    assert text.count("<p>pruned; merged</p>") == 2
    # As a layer, and where the error is largest.
    assert len(re.findall("<(?:td|p)[^>]*>block.k</", text)) == 2


def test_names_cannot_become_markup():
    text = html(compiled())
    assert "<script>" not in text
    assert "&lt;b&gt;head" in text
    marked = WRITERS["md"](compiled()).decode()
    assert "&lt;b>head" in marked
    assert r"'skip' \| so" in marked


def test_several_sources_share_a_page(tmp_path):
    class Profiled:
        def to_dict(self):
            return PROFILE

    page = page_of([Source("report", REPORT.to_dict()), Source("profile", PROFILE)])
    assert [pie.title for pie in piece(page, Pies).pies] == ["dense, 0.100 ms", "compiled, 0.100 ms"]
    assert page.title == "Tiny & <script>"
    REPORT.to_html(tmp_path / "page.html", Profiled())
    assert "Kernel time by kind" in (tmp_path / "page.html").read_text("utf-8")
    REPORT.to_png(tmp_path / "page.png", Profiled())
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_a_slice_that_is_everything_is_drawn():
    whole = {**PROFILE, "dense": {**PROFILE["dense"], "shares": {"GEMM": 100.0, "other": 0.0}}}
    assert html(page_of([Source("profile", whole)])).count('<path d="M') == 3


def test_tuned_and_calibrated_points_become_heat_maps():
    shipped = next((ROOT / "runtime" / "tuning" / "tables").glob("*.json"))
    heat = piece(page_of([read(shipped)]), HeatMap)
    assert heat.title == "Speed-up over dense, bfloat16"
    assert any("skinny@" in cell.how for line in heat.cells for cell in line)
    point = {
        "dtype": "float32",
        "n": 8,
        "k": 4,
        "m": 1,
        "dense_us": 3.0,
        "unpacked_us": 4.0,
        "sparse_us": {"cpu": 2.0},
    }
    calibrated = {"format": "sparseflow.dispatch", "machine": {"cpu": "x"}, "rows": [point]}
    assert piece(page_of([Source("table", calibrated)]), HeatMap).cells[0][0].text == "1.50"


def test_what_all_rows_share_is_said_once():
    table = piece(page_of([Source("x", {"rows": [{"a": 1, "b": 2}, {"a": 1, "b": 3}]})]), Table)
    assert [column.heading for column in table.columns] == ["b"]
    assert table.note == "In every row: a 1."


def test_the_command_writes_all_forms(tmp_path, capsys):
    source = tmp_path / "report.json"
    source.write_text(json.dumps(REPORT.to_dict()))
    files = {form: tmp_path / f"page.{form}" for form in ("html", "png", "md")}
    options = [text for form, file in files.items() for text in (f"--{form}", str(file))]
    assert main(["report", str(source), *options]) == 0
    assert capsys.readouterr().out.count("wrote ") == 3
    assert all(file.stat().st_size > 500 for file in files.values())
    assert main(["report", str(source)]) == 0
    assert "| block.q" in capsys.readouterr().out
    assert main(["report", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["prune"] == "magnitude"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "can't be read"),
        ("[" * 100_000, "can't be read"),
        ("[1]", "isn't a JSON object"),
        ("{}", "is nothing that SparseFlow writes"),
        ('{"layers": 1, "model": {}}', "can't be understood"),
        ('{"layers": [{"name": "a"}], "model": {}}', "can't be understood"),
        ('{"rows": 3}', "can't be understood"),
        ('{"rows": [3]}', "can't be understood"),
        ('{"rows": [{"N": 1, "K": 1, "M": 1, "dense_us": 1, "ours_us": 0}]}', "can't be understood"),
        ('{"gemm_share": "x"}', "can't be understood"),
        ('{"format": "sparseflow.tuned", "rows": [{}]}', "can't be understood"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, capsys, content, reason):
    (tmp_path / "x.json").write_text(content)
    assert main(["report", str(tmp_path / "x.json"), "--html", str(tmp_path / "x.html")]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_files_that_cannot_be_written_are_named(tmp_path, capsys):
    (tmp_path / "x.json").write_text(json.dumps(REPORT.to_dict()))
    for file in (tmp_path / "none" / "x.html", tmp_path):
        assert main(["report", str(tmp_path / "x.json"), "--html", str(file)]) == 1
        assert str(file) in capsys.readouterr().err
    with pytest.raises(ArgumentError, match="can't be written"):
        REPORT.to_markdown("/proc/nowhere/x.md")
