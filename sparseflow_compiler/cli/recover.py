"""`sparseflow recover`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sparseflow.cli import option_values
from sparseflow.cli.answer import answer
from sparseflow.cli.prune import REPORT as PRUNED
from sparseflow.cli.saved_models import load_model, require_new, save_model
from sparseflow.integrations.transformers.models import read_tokenizer

REPORT = "sparseflow_recover.json"


def recover(
    pruned: Annotated[Path, typer.Argument(help="Folder of the pruned transformers model.")],
    dense: Annotated[Path, typer.Argument(help="Folder of the model as it was, with its tokenizer.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: safetensors, tokenizer and reports.")],
    minutes: Annotated[float, typer.Option(help="For everything, writing text included.")] = 20.0,
    text: Annotated[
        list[Path] | None, typer.Option(help="Text to mix in; may be repeated. Else the model's own alone.")
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(help="File of `sparseflow calibrate`: learn with inputs left out; PRUNED may be dense."),
    ] = None,
    text_share: Annotated[
        float, typer.Option(help="Share of rows from --text; with 1 nothing is written.")
    ] = 0.5,
    tokens: Annotated[int | None, typer.Option(help="To write; as many as 30% of the minutes allow.")] = None,
    length: Annotated[int, typer.Option(help="Tokens in a row.")] = 512,
    steps: Annotated[int | None, typer.Option(help="The most updates; as many as the minutes allow.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows a step; 32 on a GPU, 4 on a CPU.")] = None,
    micro: Annotated[int | None, typer.Option(help="Rows at once; as memory allows.")] = None,
    lr: Annotated[float | None, typer.Option(help="The highest learning rate; by the model's size.")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw, adamw-8bit or adamw-offload.")] = "adamw",
    masters: Annotated[bool, typer.Option(help="Train 16-bit weights as float32.")] = True,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute layers: less memory, a third slower.")
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to resume from; beside OUT, and deleted at the end, by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of writing and of the order of rows.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as saved.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to train; a GPU if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Win back what pruning took: distil the dense model into the pruned one, on text that it writes itself.

    Zeros stay zeros. The same command goes on after an interruption.
    """
    require_new(out)
    where = str(option_values.device(device))
    student, teacher = (load_model(folder, dtype, where) for folder in (pruned, dense))
    tokenizer = read_tokenizer(dense) or read_tokenizer(pruned)
    file = checkpoint or out.absolute().with_name(f".{out.name}.recovery")
    option_values.require_folder(file)
    import sparseflow as sf

    report = sf.recover(
        student,
        teacher,
        minutes,
        list(text) if text else None,
        activations=None if thresholds is None else sf.ActivationThresholds.load(thresholds),
        text_share=text_share,
        tokenizer=tokenizer,
        tokens=tokens,
        length=length,
        steps=steps,
        batch=batch,
        micro=micro,
        lr=lr,
        optimizer=optimizer,  # type: ignore[arg-type]
        masters=masters,
        gradient_checkpointing=gradient_checkpointing,
        checkpoint=file,
        seed=seed,
    )
    reports = {REPORT: report.to_dict()}
    if (pruned / PRUNED).is_file():
        reports[PRUNED] = json.loads((pruned / PRUNED).read_text(encoding="utf-8"))
    save_model(student, tokenizer, out, reports)
    file.unlink(missing_ok=True)
    answer(report.to_dict(), lambda width: str(report), as_json=as_json, saved=out)
