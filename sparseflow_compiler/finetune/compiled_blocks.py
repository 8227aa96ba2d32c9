"""torch.compile for the blocks that a model repeats, such as a decoder's layers, while it trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@contextmanager
def compiled_blocks(*models: nn.Module, backend: str = "inductor") -> Iterator[list[nn.Module]]:
    """Within the block, run the repeated blocks of models by torch.compile; give them.

    Blocks of one class share their compiled code, so that compiling takes as long as for one of them, if the
    same modules in them have the same hooks: torch.compile doesn't tell them apart by these. What is around
    them, embeddings and heads, stays eager.

    Args:
        models: whose blocks are run so, with the hooks that they have now; they are as before afterwards.
        backend: of torch.compile.
    """
    blocks = [block for model in models for block in repeated_blocks(model)]
    # Code is shared among calls with one backend.
    backends: dict[object, Callable[..., object]] = {}
    try:
        for block in blocks:
            way = backends.setdefault(_hooks(block), functools.partial(torch._dynamo.lookup_backend(backend)))
            block.compile(backend=way)
        yield blocks
    finally:
        for block in blocks:
            block.__dict__.pop("_compiled_call_impl", None)  # torch has no public way back


def _hooks(block: nn.Module) -> tuple[object, ...]:
    """Return which hooks the modules of a block have."""
    return tuple(
        (name, kind, tuple(getattr(module, kind).values()))
        for name, module in block.named_modules()
        for kind in _HOOKS
        if getattr(module, kind)
    )


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the members of the longest ``nn.ModuleList`` whose members are of one class.

    There are none if no list has two. Of lists of equal length the first counts.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    same = [list(found) for found in lists if len(found) > 1 and len(set(map(type, found))) == 1]
    return max(same, key=len, default=[])
