"""Integrations with other libraries, one room for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.integrations import compressed_tensors as compressed_tensors
    from sparseflow.integrations import peft as peft
    from sparseflow.integrations import torch as torch
    from sparseflow.integrations import transformers as transformers

__all__ = ["compressed_tensors", "peft", "torch", "transformers"]

__getattr__, __dir__ = lazy.names(globals(), {}, __all__)
