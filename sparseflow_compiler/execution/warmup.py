"""Warm up: run calls until nothing is left to compile or record."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sparseflow.errors import ArgumentError
from sparseflow.execution.cuda_graphs import wait_for_plans
from sparseflow.integrations.transformers.argument_names import example_input
from sparseflow.runtime.calling.inference import device_of

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedModel

Sizes = int | Sequence[int]

RUNS = 3
"""A CUDA graph is recorded when a call comes the third time."""


class Side(Protocol):
    """A model that can be called, compiled or not."""

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run it."""

    def generate(self, *args: object, **kwargs: object) -> Any:
        """Run transformers' `generate` over it."""


@dataclass(frozen=True)
class Call:
    """A call to warm up.

    Attributes:
        title: how a report names it.
        run: makes it, once, of a model.
        times: that it takes until nothing is left to compile or record.
        arguments: of a plain call, by position and by keyword.
    """

    title: str
    run: Callable[[Side], object]
    times: int = RUNS
    arguments: tuple[Sequence[object], Mapping[str, object]] | None = None


def example_call(args: Sequence[object], kwargs: Mapping[str, object]) -> Call:
    """Return a call with a user's own inputs, named by the shapes of its first tensors."""
    shapes = [list(leaf.shape) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    title = ", ".join(map(str, shapes[:3])) + (", …" if len(shapes) > 3 else "")
    return Call(title or "the example inputs", lambda side: side(*args, **kwargs), arguments=(args, kwargs))


def plain_call(inputs: Mapping[str, Tensor]) -> Call:
    """Return a call with one entry of `calls`."""
    return Call(_title(inputs), lambda side: side(**inputs), arguments=((), inputs))


def generate_call(inputs: Mapping[str, Tensor], options: Mapping[str, object], padded: bool) -> Call:
    """Return a call of `generate` for one entry of `calls`; see `generate_calls`."""
    title = f"generate {1 + RUNS} tokens, {_title(inputs)}"
    return Call(title, lambda side: generate_calls(side.generate, inputs, options, padded), times=1)


def _title(inputs: Mapping[str, Tensor]) -> str:
    images = inputs.get("pixel_values")
    if images is not None:
        return f"batch {images.shape[0]}"
    batch, seq = next(iter(inputs.values())).shape[:2]
    return f"batch {batch} × seq {seq}"


def calls(
    model: PreTrainedModel, batch: Sizes | None, seq: Sizes | None, inputs: Sequence[str]
) -> list[dict[str, Tensor]]:
    """Make keyword inputs of a transformers model for each pair of sizes.

    Args:
        model: the model to call.
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
    return [
        {name: example_input(name, config, *size, model.dtype, device) for name in inputs} for size in sizes
    ]


def _sizes(name: str, given: Sizes | None) -> list[int]:
    sizes = list(given) if isinstance(given, Sequence) else [1 if given is None else given]
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise _refuse(
            f"{name} must be a positive int or several, not {given!r}", f"for example {name}=[1, 8]"
        )
    return sizes


def _refuse(rule: str, remedy: str) -> ArgumentError:
    return ArgumentError("warmup", rule, remedy)


def repeat(call: Call, side: Side, device: torch.device) -> None:
    """Repeat a call until its programs, kernels, plans and CUDA graphs exist."""
    for _ in range(call.times):
        call.run(side)
        _wait(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        wait_for_plans()


def generate_calls(
    generate: Callable[..., object], inputs: Mapping[str, Tensor], options: Mapping[str, object], padded: bool
) -> None:
    """Run a prefill and enough decoding steps to build everything they need.

    Args:
        generate: of the compiled model.
        inputs: one entry of `calls`.
        options: of the later calls.
        padded: whether later calls have left padding.
    """
    ids = inputs["input_ids"]
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 0] = 0
    enough = ids.shape[1] + 1 + RUNS

    def stop(tokens: Tensor, scores: object, **_: object) -> Tensor:
        return torch.full((tokens.shape[0],), tokens.shape[1] >= enough, device=tokens.device)

    defaults = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": 1 + RUNS}
    generate(ids, attention_mask=mask, stopping_criteria=[stop], **{**defaults, **options})
    _wait(ids.device)
