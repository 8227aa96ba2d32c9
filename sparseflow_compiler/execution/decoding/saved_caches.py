"""Make the static caches that an artifact's programs take, from what its contracts say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

from sparseflow.runtime.artifact.class_lookup import qualified
from sparseflow.runtime.calling.cache_names import CACHE_NAMES
from sparseflow.runtime.calling.contract import Contract, TensorSpec
from sparseflow.runtime.calling.guards import Place
from sparseflow.runtime.calling.structure import Constant, Container, Decoder, Leaf, Slot

_CACHE, _LAYER = "transformers.cache_utils:StaticCache", "transformers.cache_utils:StaticLayer"
_TENSORS = ("keys", "values", "cumulative_length")
_INPUTS = ("input_ids", "position_ids")
_OPTIONS: Mapping[str, object] = {"use_cache": True, "logits_to_keep": 1, "return_dict": True}
"""What `generate` may pass to forward beside tensors, and the value of each."""

Shape = tuple[int | None, ...]
"""None stands for the number of sequences."""


@dataclass(frozen=True)
class SavedCache:
    """A static cache that a program of an artifact takes, and how it takes it.

    Attributes:
        argument: of forward, for the cache.
        takes_positions: whether it takes `position_ids` too.
        options: the constants that it takes besides.
        length: tokens of a sequence.
    """

    argument: str
    takes_positions: bool
    options: Mapping[str, object]
    length: int
    _state: Container
    _tensors: tuple[tuple[Shape, torch.dtype, torch.device], ...]

    @classmethod
    def of(cls, contract: Contract) -> SavedCache | None:
        """Return the cache of a program that continues prompts without padding; None if it isn't one."""
        args, passed = pytree.tree_unflatten(_boxed(contract), contract.signature.inputs.spec)
        if not isinstance(passed, dict) or not all(isinstance(box, _Box) for box in passed.values()):
            return None  # it takes containers besides, such as an encoder's outputs
        found = {name: box.slot for name, box in passed.items()}
        names = [name for name in CACHE_NAMES if isinstance(found.get(name), Container)]
        inputs = [name for name in found if name in _INPUTS and found[name] is Leaf.LEAF]
        options = {name: slot.value for name, slot in found.items() if isinstance(slot, Constant)}
        if args or len(names) != 1 or "input_ids" not in inputs or _unusual(options):
            return None
        state = found.pop(names[0])
        if len(found) != len(inputs) + len(options) or not _is_static(state):
            return None
        first = len(inputs) if list(passed).index(names[0]) >= len(inputs) else None
        tensors = None if first is None else list(_tensors(contract, first))
        if not tensors or any(tensor is None for tensor in tensors):
            return None
        known = tuple(tensor for tensor in tensors if tensor is not None)
        lengths = {shape[2] for shape, _, _ in known if len(shape) == 4}
        length = lengths.pop() if len(lengths) == 1 else None
        if length is None:
            return None
        return cls(names[0], "position_ids" in inputs, options, length, state, known)

    def make(self, batch: int) -> object:
        """Return an empty cache for some sequences, of transformers' class or of its stand-in."""
        tensors = [
            torch.zeros([batch if size is None else size for size in shape], dtype=dtype, device=device)
            for shape, dtype, device in self._tensors
        ]
        return Decoder(tensors).decode(self._state)


def shortest(caches: Iterable[SavedCache], length: int) -> SavedCache | None:
    """Return the cache with the least room that holds so many tokens; None if none does."""
    fitting = (cache for cache in caches if cache.length >= length)
    return min(fitting, key=lambda cache: cache.length, default=None)


@dataclass(frozen=True)
class _Box:
    """A slot, which pytrees would take for a container."""

    slot: Slot


def _boxed(contract: Contract) -> list[_Box]:
    return [_Box(slot) for slot in contract.signature.inputs.slots]


def _unusual(options: Mapping[str, object]) -> bool:
    return any(name not in _OPTIONS or value != _OPTIONS[name] for name, value in options.items())


def _is_static(state: Container) -> bool:
    """Return whether this is a cache whose layers all hold every token."""
    layers = dict(zip(state.keys, state.children, strict=True)).get("layers")
    if qualified(state.kind) != _CACHE or not isinstance(layers, Container) or not layers.children:
        return False
    return all(map(_is_layer, layers.children)) and _leaves(state) == len(_TENSORS) * len(layers.children)


def _is_layer(layer: Slot) -> bool:
    if not isinstance(layer, Container) or qualified(layer.kind) != _LAYER:
        return False
    leaves = [name for name, slot in zip(layer.keys, layer.children, strict=True) if slot is Leaf.LEAF]
    return sorted(map(str, leaves)) == sorted(_TENSORS)


def _leaves(slot: Slot) -> int:
    if isinstance(slot, Container):
        return sum(map(_leaves, slot.children))
    return int(not isinstance(slot, Constant))


def _tensors(contract: Contract, first: int) -> Iterator[tuple[Shape, torch.dtype, torch.device] | None]:
    """Yield shape, dtype and device of each leaf from one on; None where the contract leaves a size open."""
    fixed = {r.place: r.low for r in contract.guards.ranges if r.low == r.high}
    batch = {place for pair in contract.guards.equal if (0, 0) in pair for place in pair}
    for leaf, spec in enumerate(contract.tensors[first:], first):
        yield None if spec is None or spec.layout else _tensor(leaf, spec, fixed, batch)


def _tensor(
    leaf: int, spec: TensorSpec, fixed: Mapping[Place, int], batch: set[Place]
) -> tuple[Shape, torch.dtype, torch.device] | None:
    sizes = [None if (leaf, d) in batch else fixed.get((leaf, d), -1) for d in range(spec.rank)]
    return None if -1 in sizes else (tuple(sizes), spec.dtype, spec.device)
