"""Masked training under transformers' Trainer."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn
from transformers import TrainerCallback

from sparseflow.finetune.masks import masked


class MaskCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Keeps the model's 2:4 weights 2:4 from the begin of training to its end.

        Trainer(model, arguments, train_dataset=data, callbacks=[sf.integrations.transformers.MaskCallback()])

    Raises:
        ArgumentError: when training begins and no layer of the model is 2:4.
    """

    def __init__(self) -> None:
        self._held = ExitStack()

    def on_train_begin(
        self, args: object, state: object, control: object, model: nn.Module, **kwargs: object
    ) -> None:
        """Begin to mask."""
        self._held.close()  # a training that raised never came to its end
        self._held.enter_context(masked(model))

    def on_train_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Stop masking."""
        self._held.close()
