"""One set of weights for all programs of a compiled model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow.errors import WeightError
from sparseflow.pruning.prunable import Prunable
from sparseflow.runtime import PackedWeight, prune_24
from sparseflow.runtime.checks import require_finite
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.formats import Format
from sparseflow.runtime.packed import packed_tensors
from sparseflow.runtime.pattern import relative_difference
from sparseflow.support.progress import Step

Key = tuple[tuple[str, ...], tuple[bool, ...]]
Stored = tuple[Key, str]
"""Which weight, in which format."""


class WeightBank:
    """Hands out dense tensors by reference and packed weights made once, whichever program asks.

    A weight is named as in the model; several names mean their rows concatenated in that order. Which weights
    are pruned is decided once, by `choose`, and holds for every form that is handed out, dense ones too: how
    a layer runs doesn't change what it computes.

    Args:
        prune: prune weights that are chosen and not 2:4 yet by magnitude. Without it none is changed, and
            one that is not 2:4 can't be packed.
        release: called with a name once its weight is packed and its dense bytes are no longer needed.
        prunable: gives what pruning does with the weights, as far as their model is known.
    """

    def __init__(
        self,
        *,
        prune: bool,
        release: Callable[[str], None] | None = None,
        prunable: Callable[[], Prunable] = Prunable,
    ) -> None:
        self._prune = prune
        self._release = release
        self._prunable = prunable
        self._sources: dict[str, Tensor] = {}
        self._dense: dict[Key, Tensor] = {}
        self._packed: dict[Stored, PackedWeight] = {}
        self._contiguous: dict[tuple[str, bool], Tensor] = {}
        self._copied: list[str] = []
        self._pending: list[Stored] = []
        self._chosen: dict[str, bool] = {}
        self._read_as_they_are: set[str] = set()
        self._pruned_sources: set[str] = set()
        self._were_packed: set[str] = set()
        self._errors: dict[str, float] = {}
        self._format_errors: dict[str, float] = {}
        self.policies: dict[tuple[str, str, torch.device], dict[tuple[int, int], Policy | str]] = {}
        """What was found for layer shapes, by format, dtype and device: one answer for all programs."""
        self.told_of_no_pruning = False
        """Whether the user knows that no weight is 2:4: several programs and graphs share a bank."""

    @property
    def releases(self) -> bool:
        """Whether dense weights are released as they are packed."""
        return self._release is not None

    def add(self, sources: Mapping[str, Tensor]) -> None:
        """Make the model's tensors known by name; a name already known keeps its tensor."""
        for name, tensor in sources.items():
            self._sources.setdefault(name, tensor)

    def source(self, name: str) -> Tensor:
        """The model's own tensor of that name."""
        return self._sources[name]

    def device(self, name: str) -> torch.device:
        """Where the tensor of that name is."""
        return self._sources[name].device

    def choose(self, weights: Mapping[str, bool]) -> None:
        """Say which weights are pruned from now on; without pruning nothing happens.

        Args:
            weights: for each name whether the layer's weight ``[N, K]`` is the transpose of the tensor.
        """
        if self._prune:
            self._chosen |= {name: flag for name, flag in weights.items() if name not in self._chosen}

    def choose_layers(self, names: Iterable[str]) -> None:
        """Choose those of some weights that pruning changes, whatever else reads them."""
        layers = self.prunable().layers
        self.choose({n: layers[n] for n in names if n in layers and not self.is_read_as_it_is(n)})

    def prunable(self) -> Prunable:
        """What pruning does with the weights; nothing is known of those that it doesn't name."""
        return self._prunable() if self._prune else Prunable()

    def is_read_as_it_is(self, name: str) -> bool:
        """Whether a program has the tensor unpruned, so that it is too late to choose it."""
        return self._prune and name in self._read_as_they_are

    def dense(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> Tensor:
        """The tensor of one name, by reference, or the rows of several, concatenated once; pruned if chosen.

        Raises:
            WeightError: a weight to be pruned holds NaN or Inf.
        """
        key = (names, transposed)
        parts = [self._as_chosen(*part) for part in _parts(key)]
        if len(parts) == 1:
            return parts[0]
        if key not in self._dense:
            self._dense[key] = torch.cat(parts)
        return self._dense[key]

    def contiguous(self, name: str, transposed: bool) -> Tensor:
        """The matrix of that name, its rows stored one after the other: itself, or one copy whoever asks.

        Where weights are released the copy takes the place of the model's own.
        """
        key = (name, transposed)
        if key not in self._contiguous:
            tensor = self._as_chosen(name, transposed)
            self._contiguous[key] = tensor.contiguous()
            if not tensor.is_contiguous():
                self._copied.append(name)
        return self._contiguous[key]

    def packed(
        self,
        names: tuple[str, ...],
        transposed: tuple[bool, ...] = (),
        format: str = "2:4",
    ) -> PackedWeight:
        """A weight in a format, or the rows of several; one object whoever asks.

        Until `pack` runs it has shapes only (it is on the meta device), so that nothing is packed or released
        for a program that can't be lowered.
        """
        stored = ((names, transposed), format)
        if stored not in self._packed:
            parts = [self._oriented(*part) for part in _parts(stored[0])]
            rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
            self._packed[stored] = PackedWeight.empty(rows, columns, parts[0].dtype, "meta", format)
            self._pending.append(stored)
        return self._packed[stored]

    def pack(self, step: Step) -> None:
        """Fill every packed weight that was asked for since the last time.

        All weights are looked at before the first is packed: either all are packed, or none is released.

        Args:
            step: told after each weight.

        Raises:
            WeightError: a weight holds NaN or Inf.
        """
        pending, self._pending = self._pending, []
        try:
            for key, _ in pending:
                for part in _parts(key):
                    self._check(*part)
        except WeightError:
            for stored in pending:
                del self._packed[stored]
            raise
        for done, stored in enumerate(pending, start=1):
            self._fill(stored)
            step(done, len(pending), stored[0][0][0])
        self._release_copied()

    def _release_copied(self) -> None:
        copied, self._copied = self._copied, []
        for name in copied if self._release is not None else ():
            if (name, True) in self._contiguous and (name, False) not in self._contiguous:
                self._sources[name] = self._contiguous[name, True].t()
                self._release(name)  # type: ignore[misc]  # not None here

    def relative_error(self, name: str) -> float:
        """‖W − pruned W‖ / ‖W‖ of a weight that was packed; 0 where pruning changed nothing."""
        return self._errors.get(name, 0.0)

    def format_error(self, name: str) -> float:
        """‖W − stored W‖ / ‖W‖ of a pruned weight W; 0 where its format stores it as it is."""
        return self._format_errors.get(name, 0.0)

    def pruned_parts(self, packed: PackedWeight) -> Iterator[tuple[str, Tensor]]:
        """Name and pruned dense tensor of each part of a packed weight of this bank, unless it `releases`."""
        key = next(key for (key, _), held in self._packed.items() if held is packed)
        for name, transposed in _parts(key):
            yield name, self._pruned(self._oriented(name, transposed))

    def was_packed(self, name: str) -> bool:
        """Whether a packed form of the weight exists; its dense bytes may be released then."""
        return name in self._were_packed

    def _as_chosen(self, name: str, transposed: bool) -> Tensor:
        """A tensor as dense products read it: from the first time on it stays pruned if it is chosen."""
        if name not in self._chosen:
            self._read_as_they_are.add(name)
        elif name not in self._pruned_sources:
            self._pruned_sources.add(name)
            self._prune_source(name, self._chosen[name])
        if self._release is not None and name in self._were_packed:
            return self._unpacked(name, transposed)
        return self._oriented(name, transposed)

    def _unpacked(self, name: str, transposed: bool) -> Tensor:
        """The rows of a weight whose own bytes were released, out of the packed form that has them."""
        for (names, flags), held in ((key, held) for (key, _), held in self._packed.items()):
            if name in names and not held.format.lossy:
                parts = list(_parts((names, flags)))
                sizes = [self._oriented(*part).shape[0] for part in parts]
                place = names.index(name)
                rows = held.unpack()[sum(sizes[:place]) : sum(sizes[: place + 1])].clone()
                return rows.t() if parts[place][1] != transposed else rows
        raise WeightError(
            name.removesuffix(".weight"),
            "its dense bytes were released when a lossy format took its place, and another program reads it "
            "densely",
            "compile without inplace=True",
        )

    @torch.no_grad()
    def _prune_source(self, name: str, transposed: bool) -> None:
        """Put a weight's pruned values in the place of its own ones: in memory where those are released."""
        if self._release is not None and name in self._were_packed:
            return  # its own ones are gone; the packed form has the pruned ones
        self._check(name, transposed)
        weight = self._oriented(name, transposed)
        pruned = self._pruned(weight)
        self._errors.setdefault(name, relative_difference(weight, pruned))
        if self._release is not None:
            weight.copy_(pruned)
        elif pruned is not weight:
            self._sources[name] = pruned.t() if transposed else pruned

    def _oriented(self, name: str, transposed: bool) -> Tensor:
        tensor = self._sources[name].detach()
        return tensor.t() if transposed else tensor

    def _check(self, name: str, transposed: bool) -> None:
        layer = name.removesuffix(".weight")
        try:
            require_finite(self._oriented(name, transposed), f"layer {layer}")
        except WeightError as error:
            remedy = f"mend the weight, or leave the layer dense: skip=({layer!r},)"
            raise WeightError(error.subject, error.rule, remedy) from None

    def _fill(self, stored: Stored) -> None:
        key, held = stored[0], self._packed[stored]
        parts = [self._pack(*part, held.format) for part in _parts(key)]
        held.fill(parts)
        if self._release is not None:
            for name in key[0]:
                self._release(name)
            del parts
            held.settle()

    def _pack(self, name: str, transposed: bool, stored: Format) -> tuple[Tensor, ...]:
        weight = self._oriented(name, transposed)
        pruned = self._pruned(weight)
        self._errors.setdefault(name, relative_difference(weight, pruned))
        self._were_packed.add(name)
        tensors = packed_tensors(pruned, stored, name)
        if (error := stored.error(pruned, tensors)) is not None:
            self._format_errors[name] = error
        return tensors

    def _pruned(self, weight: Tensor) -> Tensor:
        return prune_24(weight) if self._prune else weight


@dataclass(frozen=True)
class ProgramWeights:
    """The weights of one program: those of the model, and constants that only this program has.

    Args:
        bank: the model's weights.
        constants: tensors that torch.export lifted out of the code; their names mean nothing elsewhere.
    """

    bank: WeightBank
    constants: Mapping[str, Tensor]

    def device(self, name: str) -> torch.device:
        """Where the tensor of that name is."""
        return self.constants[name].device if name in self.constants else self.bank.device(name)

    def dense(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> Tensor:
        """As `WeightBank.dense`."""
        if len(names) == 1 and names[0] in self.constants:
            constant = self.constants[names[0]]
            return constant.t() if any(transposed) else constant
        return self.bank.dense(names, transposed)

    def contiguous(self, name: str, transposed: bool) -> Tensor:
        """As `WeightBank.contiguous`."""
        if name in self.constants:
            constant = self.constants[name]
            return (constant.t() if transposed else constant).contiguous()
        return self.bank.contiguous(name, transposed)

    def packed(
        self,
        names: tuple[str, ...],
        transposed: tuple[bool, ...] = (),
        format: str = "2:4",
    ) -> PackedWeight:
        """As `WeightBank.packed`."""
        return self.bank.packed(names, transposed, format)


def _parts(key: Key) -> list[tuple[str, bool]]:
    names, transposed = key
    return list(zip(names, transposed or (False,) * len(names), strict=True))


def release_parameter(model: nn.Module, name: str) -> None:
    """Free a parameter's bytes while keeping its shape, so that the model can still be captured.

    What remains is one NaN, expanded: using the released weight gives NaN, never a plausible number.
    """
    parameter = model.get_parameter(name)
    hollow = torch.full((), float("nan"), dtype=parameter.dtype, device=parameter.device)
    parameter.data = hollow.expand(parameter.shape)
