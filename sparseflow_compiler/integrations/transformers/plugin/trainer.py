"""Masked training with transformers' Trainer."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn
from transformers import TrainerCallback

from sparseflow.finetune.masks import masked


class MaskCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Keep the model's 2:4 weights 2:4 during training.

        Trainer(model, arguments, train_dataset=data, callbacks=[sf.integrations.transformers.MaskCallback()])

    Raises:
        ArgumentError: no layer of the model is 2:4 when training begins.
    """

    def __init__(self) -> None:
        self._held = ExitStack()

    def on_train_begin(
        self, args: object, state: object, control: object, model: nn.Module, **kwargs: object
    ) -> None:
        """Start masking."""
        self._held.close()  # on_train_end isn't called after an error
        self._held.enter_context(masked(model))

    def on_train_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Stop masking."""
        self._held.close()
