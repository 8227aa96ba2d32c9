"""Which layers of a checkpoint are packed, as its config.json says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sparseflow.checkpoints.forms import (
    BITMASK,
    PACKED,
    PATTERNS_KEY,
    Kind,
    require_layers,
    require_patterns_of,
    require_version,
)
from sparseflow.errors import CheckpointError
from sparseflow.support.documents import Document

_SUBJECT = "quantization_config"
FP8 = "fp8"
"""The form of checkpoints whose weights are e4m3 with scales: `fp8_form`."""

_LINEAR = "Linear"
"""compressed-tensors names layers by their class, too."""


@dataclass
class PackedLayers:
    """The packed layers of a checkpoint.

    Attributes:
        form: theirs, as `checkpoints.forms` calls it, or `FP8`; ``"dense"``: there are none.
        targets: names; of compressed-tensors also patterns ``re:…``, and ``Linear``: every linear layer.
        ignored: as `targets`, of layers that are not packed.
        kinds: of layers that aren't 2:4, by name.
    """

    form: str = "dense"
    targets: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    kinds: dict[str, Kind] = field(default_factory=dict)

    @classmethod
    def of(cls, declared: Document) -> PackedLayers:
        """Read the ``quantization_config`` of a config.json.

        Raises:
            CheckpointError: it is malformed, or of another version.
        """
        if is_bitmask(declared):
            sparsity = declared["sparsity_config"]
            targets, ignored = (sparsity.get(key) or [] for key in ("targets", "ignore"))
            return cls(BITMASK.name, set(_names(targets) or [_LINEAR]), set(_names(ignored)))
        if is_fp8(declared):
            ignored = _names(declared.get("ignored_layers") or declared.get("ignore") or [])
            return cls(FP8, {_LINEAR}, set(ignored))
        if "layers" not in declared:
            return cls()
        require_version(declared.get("format_version"), _SUBJECT)
        kinds = require_patterns_of(declared.get(PATTERNS_KEY, {}), _SUBJECT)
        return cls(PACKED.name, set(require_layers(declared["layers"], _SUBJECT)), kinds=kinds)

    def rename(self, names: Sequence[str], kinds: Mapping[str, Kind]) -> None:
        """Add names by which vLLM knows the targets; patterns and the checkpoint's own stay."""
        self.targets.update(names)
        self.kinds.update(kinds)

    def kind(self, name: str, in_features: int) -> Kind:
        """Return the kind of a packed layer.

        Raises:
            CheckpointError: it has other in features than the model's.
        """
        found = self.kinds.get(name, Kind("2:4", in_features))
        if found.in_features != in_features:
            raise CheckpointError(
                f"layer {name}",
                f"it has {found.in_features} in features in the checkpoint; the model needs {in_features}",
                "use the checkpoint of this model",
            )
        return found

    def holds(self, name: str) -> bool:
        """Return whether a linear layer is packed."""
        return _matches(name, self.targets) and not _matches(name, self.ignored)


def is_bitmask(declared: Document) -> bool:
    """Return whether a checkpoint is compressed-tensors' ``sparse-24-bitmask``, and not quantised too."""
    sparsity = declared.get("sparsity_config")
    sparse = isinstance(sparsity, dict) and sparsity.get("format") == BITMASK.name
    return (
        sparse and declared.get("quant_method") == "compressed-tensors" and not declared.get("config_groups")
    )


def is_fp8(declared: Document) -> bool:
    """Return whether a checkpoint's weights are e4m3 with a scale each, or one for each row.

    Such are those of vLLM's method ``fp8`` without blocks, and compressed-tensors' ``float-quantized``.
    """
    method = declared.get("quant_method")
    if method == "fp8":
        return not declared.get("weight_block_size")
    groups = declared.get("config_groups")
    if method != "compressed-tensors" or not isinstance(groups, dict) or declared.get("sparsity_config"):
        return False
    return bool(groups) and all(_is_e4m3(group) for group in groups.values())


def _is_e4m3(group: object) -> bool:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(weights, dict) or group.get("targets") != [_LINEAR]:
        return False
    kind = weights.get("type"), weights.get("num_bits")
    return kind == ("float", 8) and weights.get("strategy") in ("tensor", "channel")


def _names(found: object) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(
            _SUBJECT, "targets and ignore must be lists of names", "get a complete copy of the checkpoint"
        )
    return found


def _matches(name: str, targets: Iterable[str]) -> bool:
    return any(
        target in (name, _LINEAR) or (target.startswith("re:") and re.match(target[3:], name) is not None)
        for target in targets
    )
