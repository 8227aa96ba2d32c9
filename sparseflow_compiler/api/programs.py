"""The captured programs of one model, and the choice of the one that serves a call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from sparseflow.api.quality import warn_of_weights
from sparseflow.compiler.bank import WeightBank, release_parameter
from sparseflow.compiler.options import CompileOptions
from sparseflow.errors import ArgumentError, CaptureError
from sparseflow.frontend.exclusive import COMPILING
from sparseflow.frontend.state.compiled_parts import eager_forward
from sparseflow.frontend.state.later import Held
from sparseflow.pruning.prunable import Prunable
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.carried import Carried
from sparseflow.runtime.calling.repeated import RepeatedCalls
from sparseflow.runtime.calling.structure import COUNTERS
from sparseflow.support.extras import require_compiler
from sparseflow.support.progress import progress_bars

if TYPE_CHECKING:
    from sparseflow.compiler.build import Program
    from sparseflow.runtime.calling.carried import State
    from sparseflow.runtime.calling.structure import Flat

MAX_PROGRAMS = 32
"""With more programs than this, every call must vary in something that torch.export treats as constant."""


class Programs:
    """Finds the program that serves a call, or captures and compiles one.

    Args:
        model: the model.
        subject: the compiled model's name in errors.
        options: the options of the compilation.
        bank: weights shared with other compiled models; by default its own.

    Attributes:
        bank: the packed weights of all programs.
        all: the programs, in order of capture.
        captures: why each was captured.
        carried: attributes of the model that calls change.
        repeated: calls that these programs served, to find the program of the next one like them at once.
    """

    def __init__(
        self, model: nn.Module, subject: str, options: CompileOptions, bank: WeightBank | None = None
    ) -> None:
        self._model, self._subject, self._options = model, subject, options
        self._shares_bank = bank is not None
        self.bank = bank or self._new_bank()
        self.all: list[Program] = []
        self.captures: list[str] = []
        self.carried = Carried()
        self.repeated = RepeatedCalls()
        self._held: Held | None = None
        self._call_signature = CallSignature.of(eager_forward(model))

    def serving(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], check: Callable[[Flat], None]
    ) -> tuple[Program, Flat, State | None]:
        """Return the program for a call, the flattened call, and the model's attributes that it carries.

        Args:
            args: positional inputs.
            kwargs: inputs by keyword.
            check: refuses a call before a program is captured for it.

        Raises:
            SparseFlowError: no program serves the call, and none can be made.
        """
        while True:
            places, counters = self.carried.places, len(COUNTERS)
            state = self.carried.state()
            call = self._call_signature.flatten(args, kwargs, state)
            check(call)
            program = self._program(call, args, kwargs)
            # A capture may have found further inputs of its program, with which the call has more leaves.
            if self.carried.places is places and len(COUNTERS) == counters:
                return program, call, state

    def captured(self, program: int) -> Program:
        """Return a program by its number, in order of capture.

        Raises:
            CaptureError: there is none yet.
        """
        if not self.all:
            raise CaptureError(
                self._subject,
                "nothing was captured yet",
                "call the model once, or pass example inputs to sf.compile",
            )
        return self.all[program]

    @property
    def ask_for_gradients(self) -> bool:
        """Whether the model's forward asks if gradients are on."""
        return any(program.captured.ambient.gradients is not None for program in self.all)

    def changed(self) -> str | None:
        """Return which tensors the user replaced or wrote that the programs have copies of, or None."""
        held = self._held  # another thread may forget the programs meanwhile
        return None if held is None or held.is_as_it_was() else held.what_changed()

    def forget(self) -> None:
        """Drop all captured programs."""
        self.all, self.captures, self.carried, self._held = [], [], Carried(), None
        self.repeated = RepeatedCalls()
        if not self._shares_bank:
            self.bank = self._new_bank()

    def require_originals(self, subject: str) -> None:
        """Refuse an operation that reads the model's own weights after they were released.

        Raises:
            ArgumentError: they were released.
        """
        if self._options.inplace and self.all:
            raise ArgumentError(
                f"{self._subject}, {subject}",
                "the model was compiled in place: its own weights were released as they were packed",
                "load the model again and compile that, or compile it without inplace=True",
            )

    def _new_bank(self) -> WeightBank:
        release = functools.partial(release_parameter, self._model) if self._options.inplace else None
        prunable = functools.partial(Prunable.of, self._model)
        options = self._options
        return WeightBank(
            prune=options.prune is not None, pattern=options.pattern, release=release, prunable=prunable
        )

    def _program(self, call: Flat, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Program:
        for program in self.all:
            if program.captured.accepts_flat(call) is None:
                return program
        with COMPILING:
            # Another thread may have captured it while this one waited.
            refusals = [program.captured.accepts_flat(call) for program in self.all]
            if None in refusals:
                return self.all[refusals.index(None)]
            self._check_count(refusals)
            return self._build(args, kwargs, refusals[-1] if refusals else None)

    def _check_count(self, refusals: list[str | None]) -> None:
        if len(refusals) < MAX_PROGRAMS:
            return
        raise CaptureError(
            self._subject,
            f"{MAX_PROGRAMS} programs were captured and none accepts this call: {refusals[-1]}",
            "pass what varies from call to call as a tensor",
        )

    def _build(self, args: tuple[object, ...], kwargs: Mapping[str, object], refusal: str | None) -> Program:
        require_compiler(self._subject)
        from sparseflow.compiler.build import build_program

        places = self.carried.places
        with progress_bars(self._options.progress) as progress:
            program = build_program(
                self._model, args, kwargs, self._options, self.bank, progress, self.carried
            )
        if not self.bank.told:
            name = type(self._model).__name__
            self.bank.told = warn_of_weights(name, program, self.bank, first=not self.all)
        if self.carried.places is not places:  # the earlier programs lack these inputs
            self.all, self.captures, self.repeated = [], [], RepeatedCalls()
        self.all.append(program)
        carried = {(id(place.module), place.name) for place in self.carried.places}
        asks = self.ask_for_gradients
        self._held = None if self._shares_bank else Held(self._model, carried, gradients=asks)
        self.captures.append("first call" if refusal is None else f"the program before it refused: {refusal}")
        return program
