"""MLPs whose weights live on a slower tier: host memory beside a GPU, or a file beside RAM.

A cache of bounded size on the fast tier holds the neurons that tokens need; what changes from token to token
is all that is moved. S: slots of a cache, the neurons that it has room for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.runtime.contextual.tiered.cache import DifferentialCache
    from sparseflow.runtime.contextual.tiered.file import FileWeights
    from sparseflow.runtime.contextual.tiered.mlp import TieredMLP
    from sparseflow.runtime.contextual.tiered.source import HostWeights, Source

__all__ = ["DifferentialCache", "FileWeights", "HostWeights", "Source", "TieredMLP"]

__getattr__, __dir__ = lazy.names(
    globals(),
    {
        "DifferentialCache": "cache",
        "FileWeights": "file",
        "HostWeights": "source",
        "Source": "source",
        "TieredMLP": "mlp",
    },
)
