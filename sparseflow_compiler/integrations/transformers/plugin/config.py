"""`SparseFlowConfig`, the quantization config for packed 2:4 layers in ``from_pretrained``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import get_args

from torch import nn

from sparseflow.checkpoints.forms import (
    FORMAT_VERSION,
    PATTERNS_KEY,
    Kind,
    packed_config,
    require_layers,
    require_patterns_of,
    require_version,
)
from sparseflow.checkpoints.fp8_weights import declared_block, declared_fp8
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.plugin.quantizer_api import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    QuantizationConfigMixin,
)
from sparseflow.nn.linear import SparseLinear
from sparseflow.runtime.formats import sparse_names
from sparseflow.support.arguments import (
    MEMORY_MODES,
    Memory,
    PolicyMode,
    Prune,
    require_one_of,
    require_patterns,
)

METHOD = "sparseflow"
_SUBJECT = "SparseFlowConfig"


class SparseFlowConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """Load a transformers model with packed linear layers: ``quantization_config=SparseFlowConfig()``.

    The layers become `sparseflow.nn.SparseLinear`. ``save_pretrained`` writes them packed, with this
    configuration in config.json. ``from_pretrained`` then reads the folder without this argument, but only
    after ``sparseflow`` was imported. The weights may be in fp8: they are dequantised one by one, then pruned
    and packed.

    Args:
        prune: ``"magnitude"`` prunes each weight as it is loaded. With ``None``, layers that aren't 2:4 in
            the checkpoint stay dense (`sparseflow.prune` makes a model 2:4).
        skip: fnmatch patterns of layer names that stay dense, in addition to `DEFAULT_SKIP`. Layers whose
            weight is tied to another stay dense too.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        policy: ``"auto"`` or ``"sparse"``, as in `sparseflow.nn.SparseLinear`.
        memory: ``"auto"``, ``"compressed"`` or ``"fast"``, as in `sparseflow.nn.SparseLinear`.
        format: the format of weights that are packed while they are loaded, as in `sparseflow.nn.sparsify`.
            ``"2:4"``, ``"4:6"`` and ``"6:8"`` can be saved.
        saved: further entries in config.json of a packed checkpoint: ``layers``, its packed layers,
            ``patterns``, those of them that aren't 2:4, ``format_version`` and ``quant_method``.

    Raises:
        ArgumentError: an option is unknown or has a wrong value.
        CheckpointError: the checkpoint has an unsupported format version.
    """

    def __init__(
        self,
        *,
        prune: Prune | None = "magnitude",
        skip: Sequence[str] = (),
        skip_defaults: bool = True,
        policy: PolicyMode = "auto",
        memory: Memory = "auto",
        format: str = "2:4",
        **saved: object,
    ) -> None:
        require_one_of(_SUBJECT, "prune", prune, (*get_args(Prune), None))
        require_one_of(_SUBJECT, "policy", policy, get_args(PolicyMode))
        require_one_of(_SUBJECT, "memory", memory, MEMORY_MODES)
        require_one_of(_SUBJECT, "format", format, sparse_names())
        require_patterns(_SUBJECT, skip)
        self.quant_method = METHOD
        self.prune, self.skip, self.policy, self.memory = prune, list(skip), policy, memory
        self.skip_defaults = skip_defaults
        self.format = format
        self.layers: list[str] = _layers(saved)
        self.source: Mapping[str, object] | None = None
        self.patterns: dict[str, Kind] = require_patterns_of(saved.get(PATTERNS_KEY, {}), _SUBJECT)

    def over(self, declared: object) -> SparseFlowConfig | None:
        """Return this configuration for a folder whose weights are in fp8; None if they aren't.

        Args:
            declared: the folder's own entry about quantisation, as config.json has it.

        Raises:
            CheckpointError: its method has fp8 too, but its weights are quantised in another way.
        """
        if not isinstance(declared, Mapping) or declared_fp8(declared) is None:
            return None
        declared_block(declared, "config.json")
        found = copy.copy(self)
        found.source = declared
        return found

    def note_layers(self, model: nn.Module) -> None:
        """Note which layers of a model are packed, and in which format."""
        found = {name: m.weight for name, m in model.named_modules() if isinstance(m, SparseLinear)}
        self.layers = list(found)
        self.patterns = {name: Kind.of(w) for name, w in found.items() if w.format.name != "2:4"}

    def to_dict(self) -> dict[str, object]:
        """Return the entry of config.json."""
        options = {
            "prune": self.prune,
            "skip": self.skip,
            "skip_defaults": self.skip_defaults,
            "policy": self.policy,
            "memory": self.memory,
        }
        kinds = {name: self.patterns.get(name, Kind("2:4", 0)) for name in self.layers}
        return {**packed_config(kinds), **options}


def _layers(saved: Mapping[str, object]) -> list[str]:
    unknown = sorted(saved.keys() - packed_config({}).keys())
    if unknown:
        raise ArgumentError(
            f"sf.{_SUBJECT}", f"there is no option {unknown[0]!r:.40}", "see help(SparseFlowConfig)"
        )
    require_version(saved.get("format_version", FORMAT_VERSION), "config.json")
    return list(require_layers(saved.get("layers", []), f"sf.{_SUBJECT}"))


# Replaces the stand-in that registration.py put there.
AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = SparseFlowConfig
