"""Pages of what commands and benchmarks write: what they show, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparseflow.cli.main import main
from sparseflow.errors import ArgumentError
from sparseflow.reports import WRITERS, Source, page_of, plain, read
from sparseflow.reports.page import Cell, Facts, HeatMap, Pies, Table
from sparseflow.reports.report import FormatError, LayerReport, Range, Report

ROOT = Path(__file__).parents[3]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
RANGES = (Range(1, 15, "cpu", 1.75), Range(16, None, "dense", 0.93))
MEASURED = ((1, 1.9), (16, 1.0), (4096, 0.93))
LOST = FormatError(0.02, None)
REPORT = Report(
    [
        LayerReport(
            name,
            64,
            32,
            "f32",
            "sparse",
            "pruned; merged",
            RANGES,
            8192,
            4608,
            error,
            "2:4-fp8",
            LOST,
            MEASURED,
        )
        for name, error in (("block.q", 0.31), ("block.k", 0.35))
    ]
    + [
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


def test_a_heat_map_shows_what_was_measured_at_each_m_and_nothing_between():
    heat = piece(compiled(), HeatMap)
    assert (heat.rows, heat.details) == (("q, k ×2",), ("64×32",))
    assert heat.columns == ("1", "16", "4096")
    assert [(cell.text, cell.how) for cell in heat.cells[0]] == [
        ("1.90", "cpu"),
        ("1.00", "dense"),
        ("0.93", "dense"),
    ]
    assert [Cell(v).strength for v in (2.0, 4.0, 1.0, 0.5, None)] == [1, 1, 0, -1, 0]


def test_layers_that_were_not_measured_have_no_heat_map():
    plain = [dataclasses.replace(layer, measured=()) for layer in REPORT.layers]
    page = page_of([Source("report", Report(plain, REPORT.model).to_dict())])
    assert not any(isinstance(found, HeatMap) for found in page.pieces)


def test_a_compilation_shows_memory_quality_and_every_layer():
    text = html(compiled())
    for shown in ("2 of 3", "0.591×", "0.02 MB", "0.350", "block.k", "1–15 cpu 1.75×", "capture"):
        assert shown in text
    assert text.count("<p>pruned; merged</p>") == 2
    # As a layer, and where the error is largest.
    assert len(re.findall("<(?:td|p)[^>]*>block.k</", text)) == 2


def key_figures(report):
    (first, *_) = page_of([Source("report", report.to_dict())]).pieces
    assert isinstance(first, Facts)
    return first.items


def test_a_page_opens_with_speed_memory_and_share():
    speed, size, share = key_figures(REPORT)
    # 1 / ((4096 / 1.75 + 288) / 4384): two layers of 2048 weights, and one of 288 that is dense.
    assert speed[1:] == ("1.67×", "expected of these layers at M=1; no call was measured")
    assert size[1:] == ("41% less", "0.02 MB → 0.01 MB, 0.591×")
    assert share[1:] == (
        "2 of 3",
        "93% of the weights; pruning changed 2: sparseflow eval says what it costs",
    )
    call = {"call": "x", "dense_ms": 3.0, "compiled_ms": 2.0}
    one = Report(REPORT.layers, {**REPORT.model, "measured": [call]})
    assert key_figures(one)[0][1:] == ("1.50×", "the whole model, measured: 3 → 2 ms")
    two = Report(REPORT.layers, {"measured": [call, {**call, "compiled_ms": 6.0}]})
    assert key_figures(two)[0][1:] == ("0.50–1.50×", "the whole model, measured: 2 calls")
    dense = Report([dataclasses.replace(REPORT.layers[2], bytes=2304)], {})
    assert [value for _, value, _ in key_figures(dense)] == ["–", "100% more", "0 of 1"]
    assert [value for _, value, _ in key_figures(Report([], {}))] == ["–", "–", "0 of 0"]


def test_measurements_open_with_a_headline():
    rows = [
        {"N": 8, "K": 4, "M": m, "dtype": "f32", "dense_us": dense, "ours_us": 2.0}
        for m, dense in ((1, 4.0), (2, 1.97), (3, 1.0))
    ]
    (first, *_) = page_of([Source("x", {"rows": rows})]).pieces
    assert [(value, note) for _, value, note in first.items] == [
        ("0.98×", "of 3 measurements"),
        ("2.00×", "M 1"),
        ("2 of 3", "within 2 %; the least is 0.50×"),
    ]
    decoded = [{"model": "a", "tokens_s": 30.0, "dense_tokens_s": 20.0}, {"model": "b", "tokens_s": 1.0}]
    (first, *_) = page_of([Source("x", {"rows": decoded})]).pieces
    assert [value for _, value, _ in first.items] == ["1.50×", "1.50×", "1 of 1"]
    for silent in ({"a": 1}, {"speedup": float("nan")}, {"speedup": None}, {"dense_us": 1, "ours_us": "?"}):
        assert not isinstance(page_of([Source("x", {"rows": [silent]})]).pieces[0], Facts)


def test_products_and_models_have_tables_of_their_own():
    product = {"N": 8, "K": 4, "M": 1, "dense_us": 2.0, "ours_us": 1.0}
    mixed = [product, {"model": "a", "batch": 1, "dense_ms": 3.0}, {**product, "M": 2}]
    tables = [piece for piece in page_of([Source("x", {"rows": mixed})]).pieces if isinstance(piece, Table)]
    assert [(table.title, len(table.rows)) for table in tables] == [("Rows", 1), ("Products", 2)]
    assert [column.heading for column in tables[0].columns] == ["model", "batch", "dense_ms"]
    assert [column.heading for column in tables[1].columns] == ["M"]  # what all share is stated below
    (one,) = (
        piece for piece in page_of([Source("x", {"rows": mixed[:1]})]).pieces if isinstance(piece, Table)
    )
    assert one.title == "Rows"


def test_a_notebook_shows_a_small_fragment_that_is_escaped_and_complete_in_itself():
    text = REPORT._repr_html_()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not re.search(r"url\(|@import|<script|https?://|<html|<body| src=| href=", text)
    assert "Tiny &amp; &lt;script&gt;" in text
    assert "&lt;b&gt;head" in text
    assert "41% less" in text
    # Every rule holds within the fragment alone.
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert all(line.startswith(".sparseflow-report") for line in style.split("\n") if line)
    many = [
        dataclasses.replace(REPORT.layers[0], name=f"layers.{i}.{name}")
        for i in range(80)
        for name in ("q", "k", "v", "o", "gate", "up", "down")
    ]
    assert len(Report(many, REPORT.model)._repr_html_()) < 6000


@pytest.mark.parametrize("width", [30, 80, 10_000])
def test_a_page_is_text_in_any_width(width):
    page = page_of([Source("report", REPORT.to_dict()), Source("profile", PROFILE)])
    text = plain(page, width)
    assert all(len(line) <= width for line in text.splitlines())
    for shown in ("block.k", "41% less", "1.90", "75.0", "capture"):
        assert shown in text


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
