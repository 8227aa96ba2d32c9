"""The linear layers of a model, with why some can't be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from sparseflow.integrations.transformers.models import is_conv1d
from sparseflow.pruning.prunable import Owners, is_layer, owners_of, why_kept


@dataclass(frozen=True)
class Layer:
    """A module that multiplies by a weight ``[N, K]``, or by one stored as ``[K, N]``.

    Attributes:
        name: in the model.
        module: an `nn.Linear`, or transformers' Conv1D.
        transposed: whether the module stores ``[K, N]``.
        dense: why it can't be pruned, or None.
    """

    name: str
    module: nn.Module
    transposed: bool
    dense: str | None = None

    @property
    def weight(self) -> Tensor:
        """``[N, K]``, a view of the module's weight without gradient."""
        weight = self.module.weight
        assert isinstance(weight, Tensor), "linear layers are chosen by type"
        return weight.detach().t() if self.transposed else weight.detach()

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        names = ("nf", "nx") if self.transposed else ("out_features", "in_features")
        n, k = (int(getattr(self.module, name)) for name in names)
        return n, k

    def write(self, weight: Tensor) -> None:
        """Overwrite the weight with ``[N, K]`` in place; dtype, device and strides are kept."""
        # Adding 0 turns -0.0 into 0.0.
        self.weight.copy_(weight).add_(0.0)


def find_layers(model: nn.Module, skip: Sequence[str]) -> list[Layer]:
    """Return every linear layer of a model, in the order of its modules.

    Args:
        model: the model.
        skip: fnmatch patterns over layer names that stay dense.
    """
    owners = owners_of(model)
    return [
        Layer(name, module, is_conv1d(module), _why_dense(name, module, skip, owners))
        for name, module in model.named_modules()
        if is_layer(module)
    ]


def _why_dense(name: str, module: nn.Module, skip: Sequence[str], owners: Owners) -> str | None:
    for pattern in skip:
        if fnmatchcase(name, pattern):
            return f"skipped by the pattern '{pattern}'"
    return why_kept(name, module, owners)
