"""`sparseflow.load`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sparseflow.compiler.options import CompileOptions
from sparseflow.errors import ArgumentError
from sparseflow.execution.inner import Execution, Inner, Mode, make_runner
from sparseflow.runtime import artifact

if TYPE_CHECKING:
    from sparseflow.execution.generation import Generator
    from sparseflow.execution.saved_generation import SavedGenerator
    from sparseflow.integrations.transformers.types import PreTrainedConfig, PreTrainedTokenizerBase


class LoadedModel(artifact.LoadedModel):
    """The result of `sparseflow.load`: an artifact's model, with `generate` if it was saved with it.

    Args:
        again: loads the artifact again, once transformers' classes are imported.
        execution: how graphs run.
        parts: the arguments of `artifact.LoadedModel`.
    """

    def __init__(self, again: Callable[[], LoadedModel], execution: Execution, *parts: Any) -> None:
        super().__init__(*parts)
        self._again, self._execution = again, execution
        self._knows_caches = "transformers.generation.utils" in sys.modules
        self._generator: Generator | None = None
        self._plain: SavedGenerator | None = None

    def generate(self, *args: object, **kwargs: object) -> Any:
        """Run the saved model's `generate`, with every forward run by the artifact's programs.

        A call that passes nothing but tokens and the usual options runs without transformers, if a program
        for it and for its next tokens was saved: importing that takes longer than loading. Every other call
        runs in transformers' `generate`.

        Raises:
            ArgumentError: the model doesn't generate, or a call is of another kind than those that were
                captured before it was saved.
            MissingDependencyError: transformers is missing.
        """
        self._require_generation()
        if self._plain is None:
            self._plain = self._make_plain()
        found = self._plain.generate(*args, **kwargs)
        if found is not None:
            return found
        if self._generator is None:
            self._generator = self._make_generator()
        return self._generator.generate(*args, **kwargs)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that was saved with the model; None without one.

        Raises:
            MissingDependencyError: transformers is missing.
        """
        from sparseflow.integrations.transformers.models import read_tokenizer

        return read_tokenizer(self._folder) if (self._folder / "tokenizer_config.json").exists() else None

    @property
    def config(self) -> PreTrainedConfig | None:
        """The configuration of a transformers model; None for other models.

        Raises:
            MissingDependencyError: transformers is missing.
        """
        from sparseflow.integrations.transformers.saved import config_of

        return config_of(self._folder)

    def _require_generation(self) -> None:
        from sparseflow.integrations.transformers.saved import SHELL

        if not (self._folder / SHELL).exists():
            raise ArgumentError(
                f"{self._subject}.generate()",
                "the model that was saved doesn't generate, or a SparseFlow that didn't keep that saved it",
                "call it directly, or save it again",
            )

    def _make_plain(self) -> SavedGenerator:
        from sparseflow.execution.saved_generation import SavedGenerator
        from sparseflow.integrations.transformers.saved import plain_generation

        return SavedGenerator(
            plain_generation(self._folder),
            [program.contract for program in self._programs],
            self.device,
            self.forward,
            self.lowered,
            self._execution,
        )

    def _make_generator(self) -> Generator:
        from sparseflow.execution.generation import Generator
        from sparseflow.integrations.transformers.saved import shell_of

        shell = shell_of(self._folder, lambda: self.device)
        if not self._knows_caches:  # its programs were given stand-ins for transformers' caches and outputs
            other = self._again()
            self._programs, self._runs, self._repeated = other._programs, other._runs, other._repeated
            self._parts = other._parts
            self._knows_caches, self._plain = True, None  # what was made for stand-ins serves no other
        return Generator(shell, self._saved_part, self.forward, self.lowered, self._execution)

    def _saved_part(self, name: str, function: Callable[..., object]) -> Callable[..., object]:
        """Return what runs a part of the model in place of a function of the shell."""
        if (part := self.part(name)) is None:
            rule = f"generate() calls {name}, of which no program was captured before the model was saved"
            self._refuse("generate()", rule, "call compiled.generate once before compiled.save")
        return part.forward


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    inner: Inner = "auto",
    mode: Mode | None = None,
    classes: Iterable[type] = (),
) -> LoadedModel:
    """Load what `CompiledModel.save` wrote, and run it without the compiler and without the model's code.

    Nothing in an artifact is unpickled, imported or executed as code. The result serves the calls that were
    captured before the model was saved. Weights on a CPU stay in the mapped files, which must not change
    while the model lives.

    Args:
        path: the artifact's folder.
        device: where to run, of the type that the model was compiled for; by default the same device.
        inner: what runs the graphs, as in `sparseflow.compile`.
        mode: as in `sparseflow.compile`.
        classes: classes of objects in calls and outputs that are neither transformers' nor registered with
            torch's pytrees in this process. Objects of a class that is neither given nor imported are
            replaced by a stand-in with the same fields.

    Returns:
        A module called like the model, with `report`, `mlir()` and `graph()`, and for a language model that
        was saved with them `generate()` and `tokenizer`.

    Raises:
        ArtifactError: the folder is no artifact, of a newer version, truncated, changed or malformed.
        ArgumentError: an option has a wrong value, or the artifact was compiled for another type of device,
            GPU or version of cuSPARSELt.
        NativeLibraryError: it needs cuSPARSELt, which can't be used here.
    """
    execution = CompileOptions(inner=inner, mode=mode).execution

    def runner(program: artifact.LoadedProgram) -> tuple[Callable[..., Sequence[object]], bool]:
        made = make_runner(program.graph, execution, program.device, program.written, program.grows)
        return made.run, made.inductor is None

    given = tuple(classes)

    def again() -> LoadedModel:
        return artifact.load(
            path,
            device=device,
            classes=given,
            make_runner=runner,
            kind=functools.partial(LoadedModel, again, execution),
        )

    return again()
