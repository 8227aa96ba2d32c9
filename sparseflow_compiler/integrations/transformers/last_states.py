"""The last hidden states of a language model, kept and put back: its logits without running its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from sparseflow.integrations.transformers.versions import require_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def why_no_last_states(model: nn.Module) -> str:
    """Return why a model has no last hidden states that its logits are made of; empty if it has."""
    base = getattr(model, "base_model", None)
    if not isinstance(base, nn.Module) or base is model:
        return f"{type(model).__name__} has no base model of transformers"
    return "its base model's forward is replaced" if "forward" in vars(base) else ""


def last_states(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the last hidden states ``[batch, tokens, width]`` of token ids ``[batch, tokens]``."""
    found: Tensor = cast("PreTrainedModel", model).base_model(input_ids=ids).last_hidden_state
    return found


@contextmanager
def from_last_states(model: nn.Module, states: Tensor) -> Iterator[None]:
    """Within the block, have the layers of a model give these states, whatever they are called with."""
    kind = require_transformers(
        "last hidden states"
    ).modeling_outputs.BaseModelOutputWithPastAndCrossAttentions
    base = cast("PreTrainedModel", model).base_model
    base.forward = lambda *args, **kwargs: kind(last_hidden_state=states)
    try:
        yield
    finally:
        del base.forward


@torch.no_grad()
def same_logits(model: nn.Module, ids: Tensor) -> bool:
    """Return whether a model's logits are the same, bit for bit, when its last states are put back."""
    found: list[Tensor] = []
    base = cast("PreTrainedModel", model).base_model
    hook = base.register_forward_hook(lambda _, args, output: found.append(output.last_hidden_state))
    try:
        whole = model(input_ids=ids).logits
        hook.remove()
        with from_last_states(model, found[0]):
            again = model(input_ids=ids).logits
    except (AttributeError, IndexError, TypeError):  # the outputs of models that are made otherwise
        return False
    finally:
        hook.remove()
    return torch.equal(whole, again)
