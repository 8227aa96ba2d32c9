"""Save and restore tensors in plain attributes of modules, which torch.export writes while it traces."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from sparseflow.frontend.state.kinds import OF_TORCH


class PlainTensors:
    """The contents of the tensors that a model holds as neither parameters nor buffers.

    Args:
        model: parts of lists, tuples and dicts in its modules' attributes count too.
    """

    def __init__(self, model: nn.Module) -> None:
        with _disable_current_modes():  # the tensors are real, what is traced around them is not
            self._held = [
                (tensor, tensor._version, tensor.detach().clone())
                for tensor in {id(tensor): tensor for tensor in _tensors(model)}.values()
                if not tensor.is_inference()  # those can't be written outside of inference mode
            ]

    def restore(self) -> None:
        """Restore the contents of tensors that were written since."""
        with _disable_current_modes(), torch.no_grad():
            for tensor, version, before in self._held:
                if tensor._version != version:
                    tensor.copy_(before)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        held = {name: value for name, value in vars(module).items() if name not in OF_TORCH}
        yield from (leaf for leaf in pytree.tree_leaves(held) if type(leaf) is Tensor)
