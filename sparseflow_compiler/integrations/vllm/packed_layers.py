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
from sparseflow.checkpoints.fp8_weights import declared_block, declared_fp8
from sparseflow.errors import CheckpointError
from sparseflow.support.documents import Document

_SUBJECT = "quantization_config"
FP8 = "fp8"
"""The form of checkpoints whose weights are e4m3 with scales: `fp8_form`."""

FP8_NAMES = {
    ".weight_scale_inv": ".weight_scale",
    "._weight_qdata": ".weight",
    "._weight_scale": ".weight_scale",
    ".activation_scale": ".input_scale",
}
"""Suffixes of tensors of fp8 layers, and what `fp8_form` calls them: transformers' and torchao's."""

_IGNORED = ("ignore", "ignored_layers", "modules_to_not_convert")
"""Where the writers of fp8 name layers that aren't: llm-compressor, vLLM, transformers."""

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
        block: of fp8, the rows and columns that share a scale; None: all of a weight, or of a row.
        masked: of fp8, whether the kept values are stored with bitmasks.
    """

    form: str = "dense"
    targets: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    kinds: dict[str, Kind] = field(default_factory=dict)
    block: tuple[int, int] | None = None
    masked: bool = False

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
            return _fp8_layers(declared)
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
    """Return whether a checkpoint's weights are in fp8, or in another form of a method that also has fp8.

    What `checkpoints.fp8_weights` can't read of these is refused when the engine's config is made.
    """
    return not is_bitmask(declared) and declared_fp8(declared) is not None


def _fp8_layers(declared: Document) -> PackedLayers:
    """Return the layers of a checkpoint in fp8.

    Raises:
        CheckpointError: it can't be read.
    """
    block = declared_block(declared, _SUBJECT)
    groups = declared.get("config_groups") or {}
    targets = {name for group in groups.values() for name in _names(group.get("targets") or [_LINEAR])}
    ignored: set[str] = set()
    for key in _IGNORED:
        ignored.update(_names(declared.get(key) or []))
    sparsity = declared.get("sparsity_config") or {}
    masked = isinstance(sparsity, dict) and sparsity.get("format") == BITMASK.name
    return PackedLayers(FP8, targets or {_LINEAR}, ignored, block=block, masked=masked)


def _names(found: object) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(
            _SUBJECT, "targets and ignore must be lists of names", "get a complete copy of the checkpoint"
        )
    return found


def _matches(name: str, targets: Iterable[str]) -> bool:
    return any(
        target in (name, _LINEAR)
        or name.startswith(f"{target}.")
        or (target.startswith("re:") and re.match(target[3:], name) is not None)
        for target in targets
    )
