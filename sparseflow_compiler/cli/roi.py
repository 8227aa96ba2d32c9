"""`sparseflow roi`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparseflow.cli.answer import answer
from sparseflow.cli.verbosity import spoken
from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from sparseflow.roi import Saving, Workload

roi = typer.Typer(
    help="Reckon what a speed-up saves, and say so where it saves nothing.", no_args_is_help=True
)


@roi.callback()
def _group() -> None:
    """Do nothing; without a callback typer would collapse the group into its only command."""


@roi.command()
@spoken
def throughput(
    tokens_per_day: Annotated[float, typer.Option(help="Tokens that the service handles in a day.")],
    tokens_per_request: Annotated[float, typer.Option(help="Tokens of one request.")],
    dense_rps_per_gpu: Annotated[float, typer.Option(help="Requests a second of one GPU, dense.")],
    gpu_hourly_cost: Annotated[float, typer.Option(help="Dollars an hour for one GPU.")],
    speedup: Annotated[float | None, typer.Option(help="How many times faster the model became.")] = None,
    from_report: Annotated[
        Path | None,
        typer.Option(help="Take the speed-up that `sparseflow profile --json` or a bench measured."),
    ] = None,
    efficiency: Annotated[float, typer.Option(help="Which part of the gain the service keeps.")] = 0.9,
    monthly_fee: Annotated[float, typer.Option(help="Dollars a month that it costs.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show the GPUs that a service needs, dense and compiled, and what the difference saves.

    A month has 730 hours.
    """
    from sparseflow.roi import Workload

    if (speedup is None) == (from_report is None):
        raise ArgumentError("sparseflow roi throughput", "needs --speedup or --from-report, and not both")
    factor = speedup if from_report is None else measured_speedup(from_report)
    assert factor is not None
    workload = Workload(
        tokens_per_day,
        tokens_per_request,
        dense_rps_per_gpu,
        factor,
        gpu_hourly_cost,
        efficiency,
        monthly_fee,
    )
    saving = workload.saving()
    result = {"speedup": factor, **saving.to_dict()}
    answer(result, lambda _: _text(workload, saving), as_json=as_json)


def measured_speedup(file: Path) -> float:
    """Read a whole model's speed-up from a profile or one-row results of `bench_model`.

    Raises:
        ArgumentError: the file can't be read, or doesn't have exactly one.
    """
    try:
        data: object = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(f"--from-report {file}", f"can't be read: {error}") from None
    found = _speedups(data if isinstance(data, dict) else {})
    if len(found) != 1:
        several = "no measured speed-up of a model" if not found else f"{len(found)} measured speed-ups"
        raise ArgumentError(
            f"--from-report {file}", f"has {several}", "pass the one that fits your calls: --speedup 1.42"
        )
    return found[0]


def _speedups(data: dict[str, object]) -> list[float]:
    rows = data.get("rows")
    pairs = [
        (row.get("dense_ms"), row.get("ours_ms"))
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    ]
    found = [_positive(data.get("reached")), *(_quotient(*pair) for pair in pairs)]
    return [factor for factor in found if factor is not None]


def _quotient(dense: object, ours: object) -> float | None:
    one, other = _positive(dense), _positive(ours)
    return None if one is None or other is None else one / other


def _positive(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if value > 0 else None


def _text(workload: Workload, saving: Saving) -> str:
    from sparseflow.roi import dollars

    lines = [
        f"requests a second  {saving.rps:.2f}",
        f"speed-up           {workload.speedup:.2f}×, of which a GPU gains {saving.uplift:.3f}×",
        f"GPUs               {saving.gpus_dense} → {saving.gpus_sparse}",
        f"GPUs saved         {dollars(saving.gross_monthly)} a month",
    ]
    if workload.monthly_fee:
        lines.append(f"fee                {dollars(workload.monthly_fee)} a month")
    lines += [
        f"in all             {dollars(saving.monthly)} a month, {dollars(saving.yearly)} a year",
        saving.verdict,
    ]
    return "\n".join(lines)
