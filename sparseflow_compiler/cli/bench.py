"""`sparseflow bench`: things measured on this device, dense beside ours."""

from __future__ import annotations

import typer

from sparseflow.cli.bench_contextual import contextual

bench = typer.Typer(help="Measure dense beside ours on this device.", no_args_is_help=True)
bench.command()(contextual)
