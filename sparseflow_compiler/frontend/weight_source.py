"""Weights by reference: the tensors behind the names in `sparse_gemm.weight`."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from sparseflow.frontend.flat_module import PREFIX

_KINDS = {InputKind.BUFFER: "buffer", InputKind.CONSTANT_TENSOR: "constant"}


class WeightSource(dict[str, torch.Tensor]):
    """The tensors behind the names of a program, by reference.

    Attributes:
        constants: the names that belong to this program alone; the others are the model's own.
        kinds: for tensors that aren't parameters their kind: ``"buffer"`` or ``"constant"``.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        super().__init__()
        self.constants: set[str] = set()
        self.kinds: dict[str, str] = {}
        self._exported = exported
        self._names: dict[int, str] = {}

    def name_of(self, spec: InputSpec) -> str:
        """Return the weight name of a non-user input; a repeated tensor keeps its first name."""
        target = str(spec.target)
        found = self._exported.state_dict.get(target)
        tensor = self._exported.constants[target] if found is None else found
        name = self._names.setdefault(id(tensor), target.removeprefix(PREFIX))
        if name not in self and spec.kind in _KINDS:
            self.kinds[name] = _KINDS[spec.kind]
        self[name] = tensor
        if spec.kind is InputKind.CONSTANT_TENSOR:
            self.constants.add(name)
        return name
