"""`sparseflow roi throughput`: the worked example, what is not worth it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparseflow.cli.main import main
from sparseflow.errors import ArgumentError
from sparseflow.roi import Workload, dollars

EXAMPLE = [
    "--tokens-per-day",
    "1e9",
    "--tokens-per-request",
    "1024",
    "--dense-rps-per-gpu",
    "3.0",
    "--gpu-hourly-cost",
    "2.50",
]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    assert main(["roi", "throughput", *EXAMPLE, "--json", *args]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_worked_example(capsys) -> None:
    found = run(capsys, "--speedup", "1.42", "--efficiency", "0.90")
    assert f"{found['rps']:.2f}" == "11.30"
    assert (found["gpus_dense"], found["gpus_sparse"]) == (4, 3)
    assert (found["monthly"], found["yearly"], found["worth_it"]) == (1825, 21900, True)


def test_a_fee_above_the_saving_is_a_loss_and_said_to_be_one(capsys) -> None:
    assert run(capsys, "--speedup", "1.42", "--monthly-fee", "5000")["monthly"] == -3175
    assert main(["roi", "throughput", *EXAMPLE, "--speedup", "1.42", "--monthly-fee", "5000"]) == 0
    text = capsys.readouterr().out
    assert "−$3,175 a month" in text
    assert "Don't: it loses $3,175 a month" in text


def test_where_nothing_is_saved_it_says_dont(capsys) -> None:
    assert main(["roi", "throughput", *EXAMPLE, "--speedup", "1.05"]) == 0
    assert "Don't: it saves nothing, 4 GPUs are needed either way." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("speedup", "efficiency", "uplift"), [(0.8, 0.9, 1.0), (2, 1, 2.0), (2, 0, 1.0), (2, 0.9, 1.9)]
)
def test_the_uplift_lies_between_one_and_the_speedup(
    speedup: float, efficiency: float, uplift: float
) -> None:
    assert Workload(1e9, 1024, 3, speedup, 2.5, efficiency).saving().uplift == pytest.approx(uplift)


def test_figures_that_divide_evenly_need_no_further_gpu() -> None:
    saving = Workload(86400 * 3 * 0.1, 1, 0.1, 3, 1, 1).saving()
    assert (saving.gpus_dense, saving.gpus_sparse) == (3, 1)


@pytest.mark.parametrize(
    ("content", "speedup"),
    [({"reached": 1.42}, 1.42), ({"rows": [{"dense_ms": 3.0, "ours_ms": 2.0}, {"other": 1}]}, 1.5)],
)
def test_the_speedup_comes_from_a_report(capsys, tmp_path: Path, content, speedup: float) -> None:
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert run(capsys, "--from-report", str(tmp_path / "report.json"))["speedup"] == speedup


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "can't be read"),
        ("[" * 100_000, "can't be read"),
        ("[]", "has no measured speed-up"),
        (
            '{"rows": [{"dense_ms": 3, "ours_ms": 2}, {"dense_ms": 3, "ours_ms": 1}]}',
            "has 2 measured speed-ups",
        ),
    ],
)
def test_a_report_without_one_speedup_is_refused(capsys, tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "report.json").write_text(content)
    assert main(["roi", "throughput", *EXAMPLE, "--from-report", str(tmp_path / "report.json")]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["--speedup", "2", "--from-report", "x"], ["--speedup", "nan"]])
def test_wrong_options_are_refused(capsys, args: list[str]) -> None:
    assert main(["roi", "throughput", *EXAMPLE, *args]) == 1
    assert "sparseflow: error:" in capsys.readouterr().err


def test_figures_out_of_range_are_refused() -> None:
    for changed in (
        {"efficiency": 1.1},
        {"dense_rps_per_gpu": 0},
        {"gpu_hourly_cost": -1},
        {"tokens_per_day": float("inf")},
    ):
        name = next(iter(changed)).replace("_", "-")
        with pytest.raises(ArgumentError, match=f"--{name}"):
            Workload(
                **{
                    "tokens_per_day": 1,
                    "tokens_per_request": 1,
                    "dense_rps_per_gpu": 1,
                    "speedup": 1,
                    "gpu_hourly_cost": 1,
                    **changed,
                }
            )


def test_dollars_are_written_as_people_do() -> None:
    assert [dollars(amount) for amount in (1825, -3175, 2.5, 0)] == ["$1,825", "−$3,175", "$2.50", "$0"]
