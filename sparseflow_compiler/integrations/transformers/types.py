"""Classes of transformers, for annotations alone: importing this imports nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, StaticCache
    from transformers.utils import ModelOutput

__all__ = ["ModelOutput", "PreTrainedConfig", "PreTrainedModel", "PreTrainedTokenizerBase", "StaticCache"]
