"""A supervisor that has points measured by a child process, which candidates may crash or hang."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType

from sparseflow.errors import TuningError
from sparseflow.runtime.tuning.ledger import Ledger
from sparseflow.runtime.tuning.point import TunedPoint
from sparseflow.runtime.tuning.process import Child, Lost
from sparseflow.runtime.tuning.protocol import Key, Ready, Request

PATIENCE = 60.0
STARTUP = 300.0
"""Seconds for importing torch and loading the libraries, even from a cold disk."""

MAX_DEATHS = 8
"""After this many candidates ended the process at a point, its untried candidates are skipped."""


def child_command(device: int | None = None) -> list[str]:
    """Return the command that starts a child on a CUDA device, by default the first one."""
    # -P keeps the child from importing from the working folder.
    module = "sparseflow.runtime.tuning.child"
    return [sys.executable, "-P", "-m", module, "--device", str(device or 0)]


class Supervisor:
    """Keeps a measuring child alive; use it as a context manager.

    A candidate that ends or hangs the child is recorded, and never tried again in the same dtype. A new child
    continues the point without it, and without repeating what was measured.

    Args:
        command: starts a child, which speaks ``protocol`` over stdin and stdout.
        patience: seconds without a message after which a child counts as hung.
        startup: seconds until a child's first message.
        cusparselt: the version of the library that the child must have; None for any.

    Attributes:
        garbage: the number of lines from children that weren't messages.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        patience: float = PATIENCE,
        startup: float = STARTUP,
        cusparselt: str | None = None,
    ) -> None:
        self.command = list(command)
        self.patience = patience
        self.startup = max(startup, patience)
        self.cusparselt = cusparselt
        self.garbage = 0
        self._child: Child | None = None
        self._losses = 0
        self._barred: defaultdict[str, dict[Key, str]] = defaultdict(dict)
        self._given_up: dict[str, str] = {}

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end_child(kill=False)
        else:
            self._end_child()

    def measure(self, request: Request) -> TunedPoint | str:
        """Measure a point.

        Returns:
            The point with its failed candidates, or why it can't be measured at all.

        Raises:
            TuningError: two children in a row died without measuring anything and with no candidate to blame,
                or the child has another version of the library.
        """
        if why := self._given_up.get(request.dtype):
            return why
        ledger, deaths = Ledger(request, self._barred[request.dtype]), 0
        while True:
            settled = ledger.settled
            try:
                outcome = self._converse(ledger)
                self._losses = 0
                return outcome
            except Lost as lost:
                if ledger.announced or ledger.settled > settled:
                    self._losses = 0
                if ledger.announced:
                    deaths += 1
                    self._blame(ledger, request, str(lost), deaths)
                elif ledger.settled == settled:
                    self._count_loss(ledger, str(lost))
                self._end_child()

    def _converse(self, ledger: Ledger) -> TunedPoint | str:
        request = ledger.begin()
        child = self._child or self._start()
        child.send(request.encode())
        while True:
            outcome = ledger.take(child.receive(self.patience))
            if outcome is not None:
                return outcome

    def _start(self) -> Child:
        try:
            self._child = child = Child(self.command)
        except OSError as error:
            raise TuningError(self.command[0], f"the measuring process does not start: {error}") from None
        first = child.receive(self.startup)
        if not isinstance(first, Ready):
            raise Lost(f"began with {first!r}")
        loaded = first.cusparselt
        if self.cusparselt not in (None, loaded):
            raise TuningError(
                "sparseflow.runtime.tuning",
                f"the table is for cuSPARSELt {self.cusparselt}, the measuring process has {loaded}",
                "set SPARSEFLOW_CUSPARSELT before the first use of the library",
            )
        return child

    def _blame(self, ledger: Ledger, request: Request, why: str, deaths: int) -> None:
        assert ledger.announced is not None
        where = f"{request.n}×{request.k}, M={request.m}"
        ledger.fail(ledger.announced, why)
        self._barred[request.dtype][ledger.announced] = f"it ended the measuring process at {where} ({why})"
        if deaths < MAX_DEATHS:
            return
        given_up = f"{MAX_DEATHS} candidates ended the measuring process at {where}"
        ledger.close(f"not tried: {given_up}")
        if ledger.nothing_measured:
            self._given_up[request.dtype] = f"given up: {given_up}, and none was measured"

    def _count_loss(self, ledger: Ledger, why: str) -> None:
        """Count a child that was lost without any result; raise TuningError if it is the second in a row.

        One such loss may be chance.
        """
        self._losses += not ledger.build_singly()
        if self._losses >= 2:
            words = self._child.last_words(10) if self._child else ""
            lost = f"the measuring process was lost twice{ledger.activity} with nothing measured: {why}"
            raise TuningError(
                "sparseflow.runtime.tuning",
                f"{lost}\n{words}".rstrip(),
                "see what it says when started by hand: " + " ".join(self.command),
            )

    def _end_child(self, *, kill: bool = True) -> None:
        if self._child is None:
            return
        if kill:
            self._child.kill()
        self.garbage += self._child.garbage
        self._child.close()
        self._child = None
