"""Handle tensors that share memory: copy inputs for capture, refuse shared buffers that are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparseflow.errors import CaptureError
from sparseflow.runtime.calling.overlap import share_memory

_STANDS_ON = "_sparseflow_stands_on"


def apart(leaves: Sequence[object], model: nn.Module) -> list[object]:
    """Return the leaves of a call, with copies of those that share storage with others or the model.

    torch.export treats tensors of one storage as the same, which only holds for this call.
    """
    own = {storage_of(tensor) for tensor in (*model.parameters(), *model.buffers())}
    uses = Counter(storage_of(leaf) for leaf in leaves if isinstance(leaf, Tensor))
    return [
        _copy(leaf) if isinstance(leaf, Tensor) and _is_shared(leaf, uses, own) else leaf for leaf in leaves
    ]


def _is_shared(leaf: Tensor, uses: Mapping[int, int], own: set[int]) -> bool:
    return uses[storage_of(leaf)] > 1 or storage_of(leaf) in own


def storage_of(tensor: Tensor) -> int:
    """Return what identifies a tensor's storage while that lives."""
    stands_on: int | None = getattr(tensor, _STANDS_ON, None)
    return int(tensor.untyped_storage()._cdata) if stands_on is None else stands_on


def stand_on(tensor: Tensor, storage: int) -> None:
    """Let `storage_of` return this for a tensor of a trace, whatever storage it has."""
    setattr(tensor, _STANDS_ON, storage)


def _copy(leaf: Tensor) -> Tensor:
    """Return a copy of the same layout that says the same of its gradients."""
    if any(stride == 0 for stride in leaf.stride()):
        copy = leaf.detach().clone()
    else:
        copy = torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device)
        copy.copy_(leaf.detach())
    if type(leaf) is nn.Parameter:
        return nn.Parameter(copy, leaf.requires_grad)
    copy.requires_grad_(leaf.requires_grad)
    with torch.enable_grad():
        return copy if leaf.is_leaf else copy.view_as(copy)


def require_own_memory(changed: Iterable[str], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a model that writes a buffer which shares memory with another of its tensors.

    Args:
        changed: the names of the buffers that the program writes.
        tensors: those of the model that the program uses, by name.

    Raises:
        CaptureError: there is one; the error names both.
    """
    for name in changed:
        for other, tensor in tensors.items():
            if other != name and not tensor.is_meta and share_memory(tensors[name], tensor):
                raise CaptureError(
                    name,
                    f"the model writes this buffer in forward, and {other} shares memory with it; a captured "
                    "program computes as if each had its own memory",
                    f"register one of them, and compute the other in forward: self.{name}[…]",
                )
