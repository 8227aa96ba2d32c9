"""Format MLIR diagnostics and compare them with a test's expectations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparseflow.errors import ParseError

_PLACE = re.compile(r'"([^"]*)":(\d+):(\d+)')
_EXPECTED = re.compile(
    r"expected-(?P<kind>error|warning|remark|note)\s*"
    r"(?:@(?P<where>[+-]\d+|above|below|unknown))?\s*\{\{(?P<text>.*?)\}\}"
)
_DESIGNATOR = re.compile(r"//.*?expected-(?:error|warning|remark|note)")
_PARSED = "-"


@dataclass(frozen=True)
class Diagnostic:
    """A diagnostic of MLIR or a pass.

    Attributes:
        kind: error, warning, remark or note.
        line: line in the input; None if it concerns another file or none.
        place: ``file:line:column``, or ``unknown location``.
        message: its text.
    """

    kind: str
    line: int | None
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.message}"


def diagnostic(path: str, kind: str, location: object, message: str) -> Diagnostic:
    """Make a diagnostic.

    Args:
        path: of the input; the parser calls it ``-``.
        kind: error, warning, remark or note.
        location: an MLIR location.
        message: its text.
    """
    match = _PLACE.search(str(location))
    if match is None:
        return Diagnostic(kind, None, "unknown location", message)
    file, line, column = match.groups()
    here = file == _PARSED
    return Diagnostic(kind, int(line) if here else None, f"{path if here else file}:{line}:{column}", message)


@dataclass(frozen=True)
class Expectation:
    """A comment such as ``// expected-error@+1 {{text}}``."""

    kind: str
    line: int | None
    at: int
    text: str

    def fits(self, found: Diagnostic) -> bool:
        """Return whether a diagnostic matches."""
        return (self.kind, self.line) == (found.kind, found.line) and self.text in found.message


def read_expectations(path: str, text: str) -> Iterator[Expectation]:
    """Yield the expectations in a chunk of input.

    Raises:
        ParseError: an expectation is malformed.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        found = list(_EXPECTED.finditer(line))
        if not found and _DESIGNATOR.search(line):
            remedy = "Write it as // expected-error@+1 {{text}}."
            raise ParseError(f"{path}:{number}", "has an expectation that can't be read", remedy)
        for match in found:
            yield Expectation(match["kind"], _line(match["where"], number), number, match["text"])


def _line(where: str | None, number: int) -> int | None:
    match where:
        case None:
            return number
        case "unknown":
            return None
        case "above":
            return number - 1
        case "below":
            return number + 1
    return number + int(where)


def mismatches(path: str, expected: Sequence[Expectation], found: Sequence[Diagnostic]) -> Iterator[str]:
    """Yield missing expected diagnostics and unexpected ones other than notes."""
    pending = list(expected)
    for report in found:
        fitting = next((expectation for expectation in pending if expectation.fits(report)), None)
        if fitting is not None:
            pending.remove(fitting)
        elif report.kind != "note":
            yield f"unexpected {report.kind}: {report}"
    for missing in pending:
        yield f'{path}:{missing.at}: expected {missing.kind} "{missing.text}" was not reported'
