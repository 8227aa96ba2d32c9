"""Compile ahead: run what a later call will run, until nothing is left to build."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseflow.api.cuda_graphs import wait_for_plans
from sparseflow.api.layers import device_of
from sparseflow.errors import ArgumentError

Sizes = int | Sequence[int]

RUNS = 3
"""A CUDA graph is recorded when a call comes the third time."""


def calls(
    model: Any, batch: Sizes | None, seq: Sizes | None, inputs: Sequence[str]
) -> list[dict[str, Tensor]]:
    """Keyword inputs of a transformers model for each pair of sizes.

    Args:
        model: what will be called.
        batch: sequences or images; 1 if not given.
        seq: tokens; not for images.
        inputs: which inputs to make: token inputs are int64 `[batch, seq]` ones, `pixel_values` as the
            configuration says.

    Raises:
        ArgumentError: sizes that are no positive ints, a model without a configuration, or no `seq` for one
            that reads tokens.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "main_input_name"):
        raise _refuse("only transformers models say what they take", "pass example inputs: warmup(x)")
    images, device = "pixel_values" in inputs, device_of(model)
    if not images and seq is None:
        raise _refuse("seq is missing", "say how many tokens: warmup(batch=8, seq=[128, 512])")
    sizes = itertools.product(_sizes("batch", batch), _sizes("seq", seq))
