"""`SparseFlowConfig`: what transformers' ``from_pretrained`` takes for packed 2:4 layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from sparseflow.checkpoints.forms import FORMAT_VERSION, packed_config, require_layers, require_version
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.plugin.quantizer_api import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    QuantizationConfigMixin,
)
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
    """Loads a transformers model with its linear layers packed: ``quantization_config=SparseFlowConfig()``.

    Its layers become `sparseflow.nn.SparseLinear`. ``save_pretrained`` writes them packed, with this
    configuration in config.json; ``from_pretrained`` reads such a folder without it, once ``sparseflow`` was
    imported, and refuses it before.

    Args:
        prune: ``"magnitude"``: each weight is pruned as it is loaded. ``None``: layers that aren't 2:4 in the
            checkpoint (`sparseflow.prune` makes them so) stay dense.
        skip: fnmatch patterns over layer names that stay dense, besides those of `DEFAULT_SKIP`. Layers whose
            weight is tied to another stay dense too.
        skip_defaults: ``False`` leaves `DEFAULT_SKIP` out.
        policy: ``"auto"`` or ``"sparse"``, as `sparseflow.nn.SparseLinear` has it.
        memory: ``"auto"``, ``"compressed"`` or ``"fast"``, as `sparseflow.nn.SparseLinear` has it.
        pattern: ``"2:4"`` is the only one.
        saved: what config.json of a packed checkpoint says besides: ``layers``, its packed layers,
            ``format_version`` and ``quant_method``.

    Raises:
        ArgumentError: an option is unknown or has a wrong value.
        CheckpointError: the checkpoint's format is of a version that isn't read.
    """

    def __init__(
        self,
        *,
        prune: Prune | None = "magnitude",
        skip: Sequence[str] = (),
        skip_defaults: bool = True,
        policy: PolicyMode = "auto",
        memory: Memory = "auto",
        pattern: str = "2:4",
        **saved: object,
    ) -> None:
        require_one_of(_SUBJECT, "prune", prune, (*get_args(Prune), None))
        require_one_of(_SUBJECT, "policy", policy, get_args(PolicyMode))
        require_one_of(_SUBJECT, "memory", memory, MEMORY_MODES)
        require_one_of(_SUBJECT, "pattern", pattern, ("2:4",))
        require_patterns(_SUBJECT, skip)
        self.quant_method = METHOD
        self.prune, self.skip, self.policy, self.memory = prune, list(skip), policy, memory
        self.skip_defaults = skip_defaults
        self.pattern = pattern
        self.layers: list[str] = _layers(saved)

    def to_dict(self) -> dict[str, object]:
        """What config.json says."""
        options = {
            "prune": self.prune,
            "skip": self.skip,
            "skip_defaults": self.skip_defaults,
            "policy": self.policy,
            "memory": self.memory,
        }
        return {**packed_config(self.layers), **options}


def _layers(saved: Mapping[str, object]) -> list[str]:
    unknown = sorted(saved.keys() - packed_config(()).keys())
    if unknown:
        raise ArgumentError(
            f"sf.{_SUBJECT}", f"there is no option {unknown[0]!r:.40}", "see help(SparseFlowConfig)"
        )
    require_version(saved.get("format_version", FORMAT_VERSION), "config.json")
    return list(require_layers(saved.get("layers", []), f"sf.{_SUBJECT}"))


# In place of what stands for it until it is needed: see registration.py.
AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = SparseFlowConfig
