"""PEFT: LoRA over packed layers, and merging that keeps a model 2:4. No other room imports PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.integrations.peft.merge import merge_adapters

__all__ = ["merge_adapters"]

__getattr__, __dir__ = lazy.names(globals(), {"merge_adapters": "merge"})
