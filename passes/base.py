"""The base class of passes, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NoReturn, TypeVar

from sparseflow.errors import PassError

if TYPE_CHECKING:
    from torch_mlir import ir

T = TypeVar("T")


@dataclass(frozen=True)
class Pass:
    """A rewrite of a module. Its fields are its options; its docstring says what it requires and ensures."""

    name: ClassVar[str]

    def run(self, module: ir.Module) -> None:
        """Rewrite the module in place; its context and an unknown location are current.

        Raises:
            RefusalError: an operation can neither be handled nor be left alone.
        """
        raise NotImplementedError


def option(default: T, text: str, parse: Callable[[str], T] | None = None) -> T:
    """Declare a field of a pass as an option.

    Args:
        default: its default value, which also determines its kind: an int, or a tuple of texts.
        text: its description, for the documentation.
        parse: parses an option of another kind; raises a ValueError that says what is wrong.
    """
    return field(default=default, metadata={"text": text, "parse": parse})


class RefusalError(PassError):
    """A pass refuses an operation."""

    def __init__(self, location: ir.Location, rule: str, remedy: str = "") -> None:
        super().__init__(str(location).removeprefix("loc(").removesuffix(")"), rule, remedy)
        self.location = location


def refuse(op: ir.Operation, rule: str, remedy: str = "") -> NoReturn:
    """Fail because an operation can't be handled.

    Raises:
        RefusalError: always.
    """
    raise RefusalError(op.location, f"'{op.name}' op {rule}", remedy)


class PassFailedError(PassError):
    """A pass failed on a module.

    Attributes:
        diagnostics: where and why, as (location, message).
    """

    def __init__(
        self, subject: str, rule: str, remedy: str, diagnostics: Sequence[tuple[ir.Location, str]]
    ) -> None:
        super().__init__(subject, rule, remedy)
        self.diagnostics = tuple(diagnostics)
