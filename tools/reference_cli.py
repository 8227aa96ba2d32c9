"""The page of the command line, from the commands' signatures and help texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, get_args, get_origin, get_type_hints

import typer.models
from docstrings import table
from typer import Typer

from sparseflow.cli import main as command_line
from sparseflow.cli.exit_codes import EXIT_CODES

_HEAD = """# Command line

<!-- Made from the commands by `make docs`; `make check` compares. -->

`sparseflow COMMAND --help` says the same in the terminal; [the guide](../guides/command-line.md) has what
commands share. `sparseflow-opt` drives the [passes](passes.md). A command exits with

"""


def page() -> str:
    """Return the contents of docs/reference/cli.md."""
    codes = table(["code", "means"], [[str(code), meaning] for code, meaning in EXIT_CODES.items()])
    return "\n\n".join([_HEAD + codes, *_commands(command_line.app, "sparseflow")]) + "\n"


def _commands(app: Typer, prefix: str) -> Iterator[str]:
    for info in app.registered_commands:
        if info.callback is not None:
            name = info.name or info.callback.__name__.replace("_", "-")
            yield from _command(f"{prefix} {name}", info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance, f"{prefix} {group.name}")


def _command(name: str, callback: Callable[..., object]) -> Iterator[str]:
    original = inspect.unwrap(callback)
    hints = get_type_hints(original, include_extras=True)
    rows = [
        [_shown(given, hints[given]), _default(parameter), _help(hints[given])]
        for given, parameter in inspect.signature(original).parameters.items()
    ]
    yield f"## `{name}`"
    yield inspect.cleandoc(original.__doc__ or "").partition("\n\nArgs:")[0]
    if rows:
        yield table(["", "default", ""], rows)


def _shown(name: str, hint: object) -> str:
    """Return how an argument or option is written."""
    found = _declared(hint)
    if isinstance(found, typer.models.ArgumentInfo):
        return f"`{(found.metavar or name).upper()}`"
    if written := _written(found):
        return ", ".join(f"`{each}`" for each in written)
    dashed = name.replace("_", "-")
    return f"`--{dashed}`, `--no-{dashed}`" if bool in (hint, *get_args(hint)) else f"`--{dashed}`"


def _written(found: typer.models.ParameterInfo | None) -> list[str]:
    """Return the names that a command gives itself; within Annotated typer takes the first as a default."""
    if found is None:
        return []
    first = [found.default] if isinstance(found.default, str) else []
    return [name for each in (*first, *(found.param_decls or ())) for name in each.split("/")]


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    value = parameter.default
    if value is None or value is False or value == []:
        return ""
    return f"`{str(value).lower() if value is True else value}`"


def _help(hint: object) -> str:
    found = _declared(hint)
    return (found.help or "") if found is not None else ""


def _declared(hint: object) -> typer.models.ParameterInfo | None:
    if get_origin(hint) is not Annotated:
        return None
    return next((each for each in get_args(hint) if isinstance(each, typer.models.ParameterInfo)), None)
