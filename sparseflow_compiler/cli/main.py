"""The command `sparseflow`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from sparseflow.cli.bench import bench
from sparseflow.cli.compile import compile_model
from sparseflow.cli.eval import evaluate
from sparseflow.cli.info import info
from sparseflow.cli.profile import profile
from sparseflow.cli.prune import prune
from sparseflow.cli.report import report
from sparseflow.cli.roi import roi
from sparseflow.cli.tune import tune
from sparseflow.errors import SparseFlowError

app = typer.Typer(
    name="sparseflow",
    help="Make PyTorch models faster with structured sparsity.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("compile")(compile_model)
app.command("eval")(evaluate)
app.command()(prune)
app.command()(profile)
app.command()(tune)
app.command()(report)
app.command()(info)
app.add_typer(roi, name="roi")
app.add_typer(bench, name="bench")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; a SparseFlowError is a message on stderr and exit code 1, wrong usage is 2."""
    try:
        result = app(args=None if args is None else list(args), standalone_mode=False)
    except SparseFlowError as error:
        print(f"sparseflow: error: {error}", file=sys.stderr)
        return 1
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        print("sparseflow: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error of click's, vendored or not
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", 2))
    return result if isinstance(result, int) else 0


def console_main() -> None:
    """The entry point: exits with what `main` returns."""
    sys.exit(main())
