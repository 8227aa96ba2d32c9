"""Passes that MLIR and torch-mlir provide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch_mlir import ir
from torch_mlir.passmanager import PassManager

from sparseflow.errors import PassError
from sparseflow.passes.base import Pass
from sparseflow.passes.registry import unknown_pass


@dataclass(frozen=True)
class NativePass(Pass):
    """A pass or pipeline that MLIR's pass manager knows, such as ``canonicalize`` or ``func.func(cse)``."""

    name: ClassVar[str] = "native"
    text: str

    def check(self, context: ir.Context) -> None:
        """Check that MLIR knows the pass.

        Raises:
            PassError: it doesn't, or doesn't take these options.
        """
        self._manager(context)

    def run(self, module: ir.Module) -> None:
        """Run it on the module."""
        self._manager(module.context).run(module.operation)

    def _manager(self, context: ir.Context) -> PassManager:
        try:
            return PassManager.parse(f"builtin.module({self.text})", context)
        except ValueError as error:
            raise self._refused(str(error)) from None

    def _refused(self, reason: str) -> PassError:
        if "does not refer to a registered pass" in reason:
            return unknown_pass(self.text)
        return PassError(f"pass '{self.text}'", reason.strip())
