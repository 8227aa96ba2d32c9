"""`sparseflow validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.exit_codes import FAILED


def validate(
    shape: Annotated[
        list[str] | None, typer.Option(help="A product, MxNxK; may be repeated. By default 11 of production.")
    ] = None,
    m: Annotated[
        list[int] | None, typer.Option(help="Rows of x instead of those of the shapes; may be repeated.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(option_values.DTYPES)}; may be repeated. By default all that run sparse."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="By default the GPU, if there is one.")] = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Rows and columns to compare; 0: all. By default all on a GPU, 64 on a CPU."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random weights and inputs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Multiply by random 2:4 weights and compare with fp64; exits with 1 where a product is wrong.

    An entry of y may be off by 4(√K+4)·eps·(|x|·|W|ᵀ), eps that of float32, and by one rounding to its dtype.
    """
    option_values.require_positive("--m", m or ())
    if sample is not None and sample != 0:
        option_values.require_positive("--sample", [sample])
    given = [option_values.sizes("--shape", text, "MxNxK") for text in shape or ()]
    where = option_values.device(device)
    names = dtype or option_values.DTYPES[where.type == "cuda" :]  # GPUs have no sparse float32
    dtypes = [option_values.dtype(name) for name in dict.fromkeys(names)]
    from sparseflow import validation
    from sparseflow.support.progress import progress_bars

    products = [(size[0], size[1], size[2]) for size in given or validation.PRODUCTION]
    if m:
        products = list(dict.fromkeys((rows, n, k) for _, n, k in products for rows in m))
    if sample is None:
        sample = 0 if where.type == "cuda" else validation.SAMPLE
    with progress_bars(None) as bars:
        result = validation.validate(
            products, dtypes, where, sample=sample or None, seed=seed, progress=bars.stage("validate")
        )
    answer(result.to_dict(), result.table, as_json=as_json)
    if not result.ok:
        raise typer.Exit(FAILED)
