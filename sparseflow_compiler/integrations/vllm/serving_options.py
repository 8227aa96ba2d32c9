"""What a user or a checkpoint asks of the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import get_args

from sparseflow.errors import ArgumentError
from sparseflow.runtime.formats import sparse_names
from sparseflow.support.arguments import (
    MEMORY_MODES,
    Memory,
    PolicyMode,
    Prune,
    Tune,
    require_one_of,
    require_patterns,
    with_defaults,
)

KEY = "sparseflow"
"""Under which ``--additional-config`` has the options."""


@dataclasses.dataclass(frozen=True)
class ServingOptions:
    """Options of the method.

    They stand in config.json beside ``quant_method``, and in vLLM's ``--additional-config
    '{"sparseflow": {…}}'``, which goes before.

    Attributes:
        prune: ``"magnitude"`` prunes dense weights to the format's pattern as they are loaded, such as to the
            two largest of every four entries. ``None``: layers that are 2:4, 4:6 or 6:8 run so, others dense.
        skip: fnmatch patterns of layers that stay dense, in addition to `DEFAULT_SKIP`; names as in the
            checkpoint, so ``*.k_proj`` keeps the whole merged ``qkv_proj`` dense.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        policy: ``"auto"``: what was measured to be faster, for each number of tokens. ``"sparse"``: always
            sparse.
        memory: ``"fast"`` keeps the dense weight beside the packed one where dense is faster for some number
            of tokens. ``"auto"`` and ``"compressed"`` never do: what memory is free is for vLLM's KV cache.
        format: how weights are stored and multiplied; those of a checkpoint whose pattern it can't store
            have the format of their pattern.
        thresholds: a file of `sparseflow calibrate`: for up to eight sequences the layers that it names leave
            out inputs near zero, over dense weights. By default ``sparseflow_thresholds.json`` in the model's
            folder, if it is there.
        tune: what is measured of a GPU while a model is loaded, for layers that no table has.

    Raises:
        ArgumentError: an option has a wrong value.
    """

    prune: Prune | None = None
    skip: tuple[str, ...] = ()
    skip_defaults: bool = True
    policy: PolicyMode = "auto"
    memory: Memory = "auto"
    format: str = "2:4"
    thresholds: str | None = None
    tune: Tune = "quick"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("prune", (*get_args(Prune), None)),
            ("policy", get_args(PolicyMode)),
            ("memory", MEMORY_MODES),
            ("format", sparse_names()),
            ("tune", get_args(Tune)),
        ):
            require_one_of("integrations.vllm", name, getattr(self, name), allowed)
        require_patterns("integrations.vllm", self.skip)
        if not isinstance(self.thresholds, str | None):
            raise ArgumentError("integrations.vllm: thresholds", "must be the path of a file")

    def updated(self, options: Mapping[str, object], source: str) -> ServingOptions:
        """Return these options with others in place.

        Args:
            options: by name.
            source: where they stand, for the error.

        Raises:
            ArgumentError: one is unknown or has a wrong value.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(options.keys() - known):
            raise ArgumentError(
                f"{source}: {unknown[0]!r:.40}",
                "there is no such option",
                f"there are {', '.join(sorted(known))}",
            )
        return dataclasses.replace(self, **options)  # type: ignore[arg-type]  # checked when it is made

    @property
    def skipped(self) -> tuple[str, ...]:
        """All patterns of layers that stay dense."""
        return with_defaults(tuple(self.skip), self.skip_defaults)
