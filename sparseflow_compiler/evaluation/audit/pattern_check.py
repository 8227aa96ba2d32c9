"""Whether a model's weights have the patterns that it claims, with nothing dense beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.linear_layers import Layer, find_layers

KNOWN = ("2:4", "4:6", "6:8")
"""The patterns that are looked for, those that keep least first."""

DENSE = "dense"
_OURS = ("torch", "transformers", "sparseflow")


@dataclass(frozen=True)
class CheckedLayer:
    """One linear layer.

    Attributes:
        name: in the model.
        N: out features.
        K: in features.
        pattern: the first of `KNOWN` that the weight has, else "dense".
        claimed: what the model's report says; None if it says nothing.
        zeros: the share of weights that are zero.
    """

    name: str
    N: int
    K: int
    pattern: str
    claimed: str | None
    zeros: float


@dataclass(frozen=True)
class PatternCheck:
    """All linear layers of a model, and what is wrong with them.

    Attributes:
        layers: in the order of the model's modules.
        other_weights: weights of two or more dimensions that no linear layer holds, such as embeddings.
        failures: claims that don't hold, and parts that the architecture lacks, in full sentences.
    """

    layers: tuple[CheckedLayer, ...]
    other_weights: int
    failures: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        counts = Counter(layer.pattern for layer in self.layers)
        weights: Counter[str] = Counter()
        for layer in self.layers:
            weights[layer.pattern] += layer.N * layer.K
        return {
            "layers_by_pattern": dict(counts),
            "weights_by_pattern": dict(weights),
            "other_weights": self.other_weights,
            "failures": list(self.failures),
            "layers": [asdict(layer) for layer in self.layers],
        }


def check_patterns(
    model: nn.Module, claims: Mapping[str, str], reference: nn.Module | None = None
) -> PatternCheck:
    """Check every linear layer of a model.

    Args:
        model: whose weights are read.
        claims: the pattern, "n:m", of each layer that is said to be pruned.
        reference: a model of the same architecture, on any device (``meta`` too): every parameter must be in
            it, with its shape, so that no branch was added. None: that isn't checked.

    Raises:
        ArgumentError: a claim is no pattern.
    """
    layers = tuple(_checked(layer, claims.get(layer.name)) for layer in find_layers(model, ()))
    names = {layer.name for layer in layers}
    failures = [
        f"{name} is said to be {p}, and there is no such layer."
        for name, p in claims.items()
        if name not in names
    ]
    for layer in find_layers(model, ()):
        claim = claims.get(layer.name)
        if claim is not None and not has_pattern(layer.weight, claim):
            failures.append(f"{layer.name} is said to be {claim}, and its weight isn't.")
    failures += _foreign(model)
    if reference is not None:
        failures += _added(model, reference)
    linear = sum(layer.N * layer.K for layer in layers)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    return PatternCheck(layers, max(0, matrices - linear), tuple(failures))


def has_pattern(weight: Tensor, pattern: str) -> bool:
    """Return whether each group of m weights along K has at most n that aren't zero, for the pattern n:m.

    Args:
        weight: ``[N, K]``; a last group that K doesn't fill is filled with zeros.
        pattern: such as "2:4".

    Raises:
        ArgumentError: it is no pattern.
    """
    found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", pattern)
    if not found or int(found[1]) > int(found[2]):
        raise ArgumentError(f"pattern {pattern!r}", "must be n:m with n ≤ m", "for example 2:4")
    most, group = int(found[1]), int(found[2])
    kept = F.pad((weight != 0).byte(), (0, -weight.shape[1] % group)).reshape(len(weight), -1, group)
    return bool((kept.sum(-1) <= most).all())


def _checked(layer: Layer, claim: str | None) -> CheckedLayer:
    weight = layer.weight
    pattern = next((pattern for pattern in KNOWN if has_pattern(weight, pattern)), DENSE)
    return CheckedLayer(layer.name, *layer.shape, pattern, claim, float((weight == 0).float().mean()))


def _foreign(model: nn.Module) -> list[str]:
    """Return modules with weights of their own whose code is neither torch's, transformers' nor ours."""
    found = {
        type(module).__qualname__: name
        for name, module in model.named_modules()
        if type(module).__module__.partition(".")[0] not in _OURS and module._parameters
    }
    return [f"{name} is a {kind}, whose code is the model's own." for kind, name in found.items()]


def _added(model: nn.Module, reference: nn.Module) -> list[str]:
    known = {name: p.shape for name, p in reference.named_parameters(remove_duplicate=False)}
    return [
        f"{name} {list(p.shape)} isn't in the dense architecture."
        for name, p in model.named_parameters(remove_duplicate=False)
        if known.get(name) != p.shape
    ]
