"""sparseflow-opt in-process: exit codes, streams, no tracebacks."""

import io
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparseflow.tools.opt import main

DENSE = """
func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  %w = "sparse_gemm.weight"() {name = "fc.weight"} : () -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none
    -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}
"""


@pytest.fixture
def dense(tmp_path):
    path = tmp_path / "dense.mlir"
    path.write_text(DENSE)
    return str(path)


def run(capsys, *args):
    code = main(list(args))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert code == 0 or (out == "" and "sparseflow-opt: error: " in err)
    return code, out, err


def test_success_is_0(capsys, dense):
    code, out, err = run(capsys, dense, "--pipeline=runtime")
    assert (code, err) == (0, "")
    assert "torch.sparseflow.linear" in out


@pytest.mark.parametrize(
    "args",
    [
        ["--nope"],
        ["-z"],
        ["--match-sparse-linear=x=1"],
        ["--match-sparse-linear=min-n=one"],
        ["--pass-pipeline"],
        ["--pipeline"],
        ["--pipeline=nope"],
        ["--pipeline=runtime{memory=small}"],
        ["--pipeline=runtime", "--cse"],
        ["--pass-pipeline=("],
        ["--pass-pipeline=func.func(nope)"],
        ["--pass-pipeline=builtin.module(match-sparse-linear"],
        ["--verify-diagnostic"],
        ["-o", "/proc/nope/x"],
        ["second.mlir"],
    ],
)
def test_a_wrong_command_line_is_2(capsys, dense, args):
    assert run(capsys, dense, *args)[0] == 2


def test_help_is_0_and_on_stdout(capsys):
    code, out, err = run(capsys, "--help")
    assert code == 0
    assert "--match-sparse-linear" in out
    assert err == ""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"  \n\n",
        b"module {",
        b"func.func @f(",
        b"\x00\x01\x02",
        b"\xff\xfe",
        b"ML\xefR",
        b"ML\xefR" + bytes(range(256)),
        b"module {" * 30_000,
        b"func.func @f() {" + b"scf.execute_region {" * 30_000,
        b"!torch.list<" * 30_000,
        b'"sparse_gemm.weight"() {name = 1 : i64} : () -> !torch.vtensor<[1],f32>',
    ],
)
def test_bad_content_is_1(capsys, tmp_path, content):
    path = tmp_path / "bad.mlir"
    path.write_bytes(content)
    assert run(capsys, str(path), "--pipeline=runtime")[0] == 1


def test_brackets_that_nest_as_deep_as_models_do_are_read(capsys, tmp_path):
    path = tmp_path / "deep.mlir"
    path.write_text("module {" * 200 + "}" * 200)
    assert run(capsys, str(path))[0] == 0


@pytest.mark.parametrize("path", ["/no/such.mlir", "/", "bad\0name"])
def test_a_path_that_is_no_file_is_1(capsys, path):
    assert run(capsys, path)[0] == 1


def test_nothing_is_written_when_a_later_chunk_fails(capsys, tmp_path):
    path, output = tmp_path / "in.mlir", tmp_path / "out.mlir"
    path.write_text("module {}\n// -----\nmodule {\n")
    code, _, err = run(capsys, str(path), "--split-input-file", "-o", str(output))
    assert code == 1
    assert f"{path}:4:" in err or f"{path}:3:" in err
    assert not output.exists()


def test_every_chunk_that_fails_is_reported(capsys, tmp_path):
    path = tmp_path / "in.mlir"
    path.write_text("1\n// -----\nmodule {}\n// -----\n2\n")
    _, _, err = run(capsys, str(path), "--split-input-file")
    assert f"{path}:1:1" in err
    assert f"{path}:5:1" in err


class Stdin:
    """A standard input with bytes behind it."""

    def __init__(self, content):
        self.buffer = io.BytesIO(content)


def test_stdin_is_the_default_input(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(DENSE.encode()))
    assert "sparse_gemm.linear" in run(capsys, "--match-sparse-linear")[1]


def test_a_reader_that_goes_away_is_no_traceback(dense):
    script = "import sys; from sparseflow.tools.opt import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", script, dense], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.close()
    _, err = child.communicate(timeout=60)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200)
    | st.text(alphabet='module{}()"%=:->!,01 \nfunc@', max_size=200).map(str.encode)
)
def test_any_content_ends_with_an_exit_code(capsys, monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    assert run(capsys, "--pipeline=runtime")[0] in (0, 1)
