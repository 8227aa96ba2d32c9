"""-q, -v, --version, --json and widths: the same for every command."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib import metadata

import pytest
from isolated import python, warm_python

from sparseflow.cli import main as cli
from sparseflow.cli.answer import answer
from sparseflow.cli.exit_codes import EXIT_CODES
from sparseflow.cli.main import main
from sparseflow.cli.verbosity import Verbosity, chosen, output_width, speaking, verbosity
from sparseflow.errors import UnprunedWarning
from sparseflow.support.progress import progress_bars
from sparseflow.support.version import __version__

GROUPS = ("bench", "roi")
ROI = [
    *("roi", "throughput", "--tokens-per-day", "1e9", "--tokens-per-request", "1024", "--speedup", "1.4"),
    *("--dense-rps-per-gpu", "3", "--gpu-hourly-cost", "2.5"),
]


def commands():
    """Every command that isn't a group, by its words."""
    import typer.main

    def leaves(command, words):
        inner = getattr(command, "commands", None)
        if inner is None:
            yield words, command
        else:
            for name, one in inner.items():
                yield from leaves(one, (*words, name))

    return dict(leaves(typer.main.get_command(cli.app), ()))


def test_every_command_reports_as_json_and_can_be_quiet_or_verbose():
    found = commands()
    assert len(found) >= 14
    for words, command in found.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "-q", "--quiet", "-v", "--verbose"} <= options, words


def test_the_version_is_the_packages_and_needs_no_torch(tmp_path):
    code = """
        import sys
        from sparseflow.cli.main import main
        assert main(["--version"]) == 0
        assert "torch" not in sys.modules
    """
    assert python(code, tmp_path).stdout.split() == ["sparseflow", __version__]
    assert __version__.count(".") == 2
    assert metadata.version("sparseflow").count(".") == 2


def test_help_lists_the_exit_codes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(f"{code} {meaning}" in out for code, meaning in EXIT_CODES.items())


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert main(["info", "-q", "-v"]) == 2
    assert main(["-q", "-v", "info"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_command_goes_on_from_what_stands_before_it():
    assert verbosity() is Verbosity.NORMAL
    with speaking(Verbosity.VERBOSE):
        assert chosen(quiet=False, verbose=False) is Verbosity.VERBOSE
        assert chosen(quiet=True, verbose=False) is Verbosity.QUIET
    assert verbosity() is Verbosity.NORMAL


def test_quiet_leaves_out_warnings_bars_and_what_was_written(capsys, recwarn, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with speaking(Verbosity.QUIET):
        warnings.warn("ours", UnprunedWarning, stacklevel=1)
        answer({}, lambda _: "a report", as_json=False, saved=tmp_path)
        with progress_bars(None) as bars:
            bars.stage("x")(1, 2)
        assert capsys.readouterr() == ("", "")
        answer({}, lambda _: "a result", as_json=False)
        answer({"a": 1}, lambda _: "a report", as_json=True, saved=tmp_path)
    assert capsys.readouterr().out == 'a result\n{"a": 1}\n'
    assert len(recwarn) == 0
    answer({}, lambda _: "a report\n", as_json=False, saved=tmp_path)
    assert capsys.readouterr().out == f"a report\nsaved to {tmp_path}\n"


@pytest.mark.parametrize("args", [["-v", *ROI], [*ROI, "-v"]])
def test_verbose_shows_where_an_error_comes_from(capsys, args):
    assert main([*args, "--monthly-fee", "nan"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main([*ROI, "--monthly-fee", "nan"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_the_width_is_the_terminals_or_enough_for_a_pipe(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output_width() == 10_000
    monkeypatch.setenv("COLUMNS", "57")
    assert output_width() == 57


@pytest.mark.parametrize("width", ["40", "72", "200"])
def test_what_is_printed_fits_the_width(tmp_path, width):
    (tmp_path / "x.json").write_text(
        json.dumps({"rows": [{f"column {i}": "a word " * 9 + str(j) for i in range(9)} for j in range(3)]})
    )
    code = f"""
        import os, sys
        os.environ["COLUMNS"] = "{width}"
        sys.stdout.isatty = lambda: True
        from sparseflow.cli.main import main
        assert main(["info"]) == 0
        assert main(["report", "x.json"]) == 0
    """
    done = warm_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # A path is a word, and words aren't cut.
    assert [line for line in lines if len(line) > int(width) and "/" not in line] == []
    assert "a word 2" in " ".join(done.stdout.split())
    assert "…" not in "".join(line for line in lines if "word" in line)
    assert "|" not in done.stdout


def test_a_pipe_gets_markdown_with_every_cell_whole(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"rows": [{"a": "b" * 300, "c": i} for i in range(2)]}))
    command = [sys.executable, "-m", "sparseflow.cli", "report", "x.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "b" * 300 in done.stdout
    assert done.stdout.startswith("# x")
