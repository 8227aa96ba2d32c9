"""The weight bank: one set of weights for all programs of a compiled model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow.errors import WeightError
from sparseflow.pruning.prunable import Prunable
from sparseflow.runtime import PackedWeight
from sparseflow.runtime.checks import require_finite
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.formats import Format
from sparseflow.runtime.packed import packed_tensors
from sparseflow.runtime.pattern import TWO_OF_FOUR, Pattern, relative_difference
from sparseflow.support.progress import Step

Key = tuple[tuple[str, ...], tuple[bool, ...]]
Stored = tuple[Key, str]
"""A weight and its format."""


class WeightBank:
    """Hold dense weights by reference and packed weights, each made once for all programs.

    Weights have their names in the model; several names mean their rows, concatenated in that order. `choose`
    decides once which weights are pruned. The decision holds for every form of a weight, dense ones included,
    so that the way in which a layer runs doesn't change what it computes.

    Args:
        prune: prune chosen weights that don't have the pattern yet, by magnitude. Without it no weight
            changes, and one that doesn't have a format's pattern can't be packed in it.
        pattern: what weights are pruned to.
        release: called with a name once its weight is packed and its dense bytes are no longer needed.
        prunable: returns how pruning treats the weights, as far as their model is known.
    """

    def __init__(
        self,
        *,
        prune: bool,
        pattern: Pattern = TWO_OF_FOUR,
        release: Callable[[str], None] | None = None,
        prunable: Callable[[], Prunable] = Prunable,
    ) -> None:
        self._prune = prune
        self._pattern = pattern
        self._release = release
        self._prunable = prunable
        self._sources: dict[str, Tensor] = {}
        self._dense: dict[Key, Tensor] = {}
        self._packed: dict[Stored, PackedWeight] = {}
        self._contiguous: dict[tuple[str, bool], Tensor] = {}
        self._columns: dict[Key, Tensor] = {}
        self._copied: list[str] = []
        self._merged: list[Key] = []
        self._pending: list[Stored] = []
        self._heads: set[str] = set()
        self._read_dense: set[str] = set()
        self._copied_heads: set[str] = set()
        self._chosen: dict[str, bool] = {}
        self._read_unpruned: set[str] = set()
        self._pruned_sources: set[str] = set()
        self._packed_names: set[str] = set()
        self._errors: dict[str, float] = {}
        self._format_errors: dict[str, float] = {}
        self.policies: dict[tuple[str, str, torch.device], dict[tuple[int, int], Policy | str]] = {}
        """What was found for layer shapes, by format, dtype and device: one answer for all programs."""
        self.told = False
        """Whether the user was warned of what the weights are; once for all programs and graphs of a bank."""

    @property
    def releases(self) -> bool:
        """Whether dense weights are released when they are packed."""
        return self._release is not None

    def add(self, sources: Mapping[str, Tensor]) -> None:
        """Register tensors of the model by name; a registered name keeps its tensor."""
        for name, tensor in sources.items():
            self._sources.setdefault(name, tensor)

    def source(self, name: str) -> Tensor:
        """Return the model's own tensor of a name."""
        return self._sources[name]

    def device(self, name: str) -> torch.device:
        """Return the device of the tensor of a name."""
        return self._sources[name].device

    def choose_head(self, name: str) -> None:
        """Let packed forms of a weight be copies: pruned if their format says so, whatever else reads it."""
        self._heads.add(name)

    def choose(self, weights: Mapping[str, bool]) -> None:
        """Choose weights that are pruned from now on; does nothing without pruning.

        Args:
            weights: for each name whether the layer's weight ``[N, K]`` is the transpose of the tensor.
        """
        if self._prune:
            self._chosen |= {name: flag for name, flag in weights.items() if name not in self._chosen}

    def choose_layers(self, names: Iterable[str]) -> None:
        """Choose the weights among some names that pruning changes and that no program has read unpruned."""
        layers = self.prunable().layers if self._prune else {}
        self.choose({n: layers[n] for n in names if n in layers and not self.is_read_unpruned(n)})

    def prunable(self) -> Prunable:
        """Return how pruning treats the weights, or would; empty where nothing is known of them."""
        return self._prunable()

    def is_read_unpruned(self, name: str) -> bool:
        """Return whether a program reads the tensor unpruned, so that it can't be chosen any more."""
        return self._prune and name in self._read_unpruned

    def dense(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> Tensor:
        """Return the tensor of one name by reference, or the concatenated rows of several; pruned if chosen.

        Raises:
            WeightError: a weight to be pruned holds NaN or Inf.
        """
        key = (names, transposed)
        self._read_dense.update(names)
        parts = [self._as_chosen(*part) for part in _parts(key)]
        if len(parts) == 1:
            return parts[0]
        if key not in self._dense:
            self._dense[key] = torch.cat(parts)
        return self._dense[key]

    def contiguous(self, name: str, transposed: bool) -> Tensor:
        """Return the matrix of a name, contiguous: itself, or one copy that all programs share.

        If weights are released, the copy replaces the model's own matrix.
        """
        key = (name, transposed)
        if key not in self._contiguous:
            tensor = self._as_chosen(name, transposed)
            self._contiguous[key] = tensor.contiguous()
            if not tensor.is_contiguous():
                self._copied.append(name)
        return self._contiguous[key]

    def columns(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> Tensor:
        """Return the contiguous transpose ``[K, N]`` of what `dense` returns.

        All programs share one copy. If weights are released, the copy replaces the model's own matrices.
        """
        key = (names, transposed)
        if key not in self._columns:
            parts = [self._as_chosen(*part).t() for part in _parts(key)]
            self._columns[key] = torch.cat(parts, dim=1)
            self._merged.append(key)
        return self._columns[key]

    def packed(
        self,
        names: tuple[str, ...],
        transposed: tuple[bool, ...] = (),
        format: str = "2:4",
    ) -> PackedWeight:
        """Return a weight, or the rows of several, in a format; one object for all programs.

        Until `pack` runs it is on the meta device, so that nothing is packed or released for a program that
        can't be lowered.
        """
        stored = ((names, transposed), format)
        if stored not in self._packed:
            parts = [self._oriented(*part) for part in _parts(stored[0])]
            rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
            self._packed[stored] = PackedWeight.empty(rows, columns, parts[0].dtype, "meta", format)
            self._pending.append(stored)
        return self._packed[stored]

    def pack(self, step: Step) -> None:
        """Fill every packed weight that was requested since the last call.

        All weights are checked before the first is packed: either all are packed, or none is released.

        Args:
            step: called after each weight, to advance the progress bar.

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
        merged, self._merged = self._merged, []
        for key in merged if self._release is not None else ():
            self._release_merged(key)

    def _release_merged(self, key: Key) -> None:
        sizes = [self._oriented(*part).shape[0] for part in _parts(key)]
        pieces = torch.split(self._columns[key], sizes, dim=1)
        for (name, transposed), piece in zip(_parts(key), pieces, strict=True):
            if (name, True) not in self._contiguous and (name, False) not in self._contiguous:
                self._sources[name] = piece if transposed else piece.t()
                self._release(name)  # type: ignore[misc]  # not None here

    def relative_error(self, name: str) -> float:
        """Return ‖W − pruned W‖ / ‖W‖ of a packed weight; 0 if pruning changed nothing."""
        return self._errors.get(name, 0.0)

    def pruning_errors(self) -> list[float]:
        """`relative_error` of every weight that pruning changed so far."""
        return [error for error in self._errors.values() if error]

    def format_error(self, name: str) -> float:
        """Return ‖W − stored W‖ / ‖W‖ of a pruned weight W; 0 if its format is exact."""
        return self._format_errors.get(name, 0.0)

    def pruned_parts(self, packed: PackedWeight) -> Iterator[tuple[str, Tensor]]:
        """Yield name and pruned dense tensor of each part of a packed weight; needs unreleased weights."""
        key = next(key for (key, _), held in self._packed.items() if held is packed)
        for name, transposed in _parts(key):
            yield name, self._to_pack(name, self._oriented(name, transposed), packed.format)

    def pattern_of(self, name: str) -> str:
        """Return the pattern of a weight of which a packed form exists, whose dense bytes may be released."""
        if name not in self._packed_names:
            return ""
        forms = (held.format.pattern for ((names, _), _), held in self._packed.items() if name in names)
        return next((pattern for pattern in forms if pattern != "dense"), "")

    def _as_chosen(self, name: str, transposed: bool) -> Tensor:
        """Return a tensor as dense products read it, pruned if it was chosen before its first reader."""
        if name not in self._chosen:
            self._read_unpruned.add(name)
        elif name not in self._pruned_sources:
            self._pruned_sources.add(name)
            self._prune_source(name, self._chosen[name])
        if self._release is not None and name in (self._packed_names | self._copied_heads):
            return self._unpacked(name, transposed)
        return self._oriented(name, transposed)

    def _unpacked(self, name: str, transposed: bool) -> Tensor:
        """Return a weight whose dense bytes were released, from a packed form that contains it."""
        for (names, flags), held in ((key, held) for (key, _), held in self._packed.items()):
            if name in names and not held.format.lossy and name not in self._copied_heads:
                parts = list(_parts((names, flags)))
                sizes = [self._oriented(*part).shape[0] for part in parts]
                place = names.index(name)
                rows = held.unpack()[sum(sizes[:place]) : sum(sizes[: place + 1])].clone()
                return rows.t() if parts[place][1] != transposed else rows
        raise WeightError(
            name.removesuffix(".weight"),
            "its dense bytes were released after lossy packing, but another program reads it densely",
            "compile without inplace=True",
        )

    @torch.no_grad()
    def _prune_source(self, name: str, transposed: bool) -> None:
        """Replace a weight by its pruned values; in place if dense weights are released."""
        if self._release is not None and name in self._packed_names:
            return  # its dense values were released; the packed form has the pruned ones
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
            remedy = f"fix the weight, or leave the layer dense: skip=({layer!r},)"
            raise WeightError(error.subject, error.rule, remedy) from None

    def _fill(self, stored: Stored) -> None:
        key, held = stored[0], self._packed[stored]
        parts = [self._pack(*part, held.format) for part in _parts(key)]
        held.fill(parts)
        if self._release is not None:
            for name in key[0]:
                if name in self._heads and name not in self._packed_names:
                    if name in self._read_dense:  # as by an embedding
                        continue
                    self._copied_heads.add(name)
                self._release(name)
            del parts
            held.settle()

    def _pack(self, name: str, transposed: bool, stored: Format) -> tuple[Tensor, ...]:
        weight = self._oriented(name, transposed)
        pruned = self._to_pack(name, weight, stored)
        self._errors.setdefault(name, relative_difference(weight, pruned))
        if name not in self._heads:
            self._packed_names.add(name)
        tensors = packed_tensors(pruned, stored, name)
        if (error := stored.error(pruned, tensors)) is not None:
            self._format_errors[name] = error
        return tensors

    def _to_pack(self, name: str, weight: Tensor, stored: Format) -> Tensor:
        """Return what a format stores of a weight; a head is pruned where it needs that."""
        if name not in self._heads:
            return self._pruned(weight) if stored.pattern == self._pattern.name else weight
        if stored.pattern == "dense":
            return self._pruned(weight) if name in self._chosen else weight
        return Pattern.of(stored.pattern).prune(weight)

    def _pruned(self, weight: Tensor) -> Tensor:
        return self._pattern.prune(weight) if self._prune else weight


@dataclass(frozen=True)
class ProgramWeights:
    """The weights of one program: the model's, and constants that only this program has.

    Args:
        bank: the model's weights.
        constants: tensors that torch.export lifted out of the code; their names are local to the program.
    """

    bank: WeightBank
    constants: Mapping[str, Tensor]

    def device(self, name: str) -> torch.device:
        """Return the device of the tensor of a name."""
        return self.constants[name].device if name in self.constants else self.bank.device(name)

    def dense(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> Tensor:
        """Return what `WeightBank.dense` does, or a constant."""
        if len(names) == 1 and names[0] in self.constants:
            constant = self.constants[names[0]]
            return constant.t() if any(transposed) else constant
        return self.bank.dense(names, transposed)

    def contiguous(self, name: str, transposed: bool) -> Tensor:
        """Return what `WeightBank.contiguous` does, or a constant."""
        if name in self.constants:
            constant = self.constants[name]
            return (constant.t() if transposed else constant).contiguous()
        return self.bank.contiguous(name, transposed)

    def columns(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> Tensor:
        """Return what `WeightBank.columns` does."""
        return self.bank.columns(names, transposed)

    def packed(
        self,
        names: tuple[str, ...],
        transposed: tuple[bool, ...] = (),
        format: str = "2:4",
    ) -> PackedWeight:
        """Return what `WeightBank.packed` does."""
        return self.bank.packed(names, transposed, format)


def _parts(key: Key) -> list[tuple[str, bool]]:
    names, transposed = key
    return list(zip(names, transposed or (False,) * len(names), strict=True))


def release_parameter(model: nn.Module, name: str) -> None:
    """Free a parameter's memory but keep its shape, so that the model can still be captured.

    A single expanded NaN remains, so that a use of the released weight gives NaN and no plausible number.
    """
    parameter = model.get_parameter(name)
    nan = torch.full((), float("nan"), dtype=parameter.dtype, device=parameter.device)
    parameter.data = nan.expand(parameter.shape)
