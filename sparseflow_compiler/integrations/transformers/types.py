"""Classes of transformers, for annotations only; importing this module doesn't import transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, StaticCache
    from transformers.utils import ModelOutput

__all__ = ["ModelOutput", "PreTrainedConfig", "PreTrainedModel", "PreTrainedTokenizerBase", "StaticCache"]
