"""torch.compile for the blocks that a model repeats, such as a decoder's layers, while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def compiled_blocks(*models: nn.Module, backend: str = "inductor") -> Iterator[list[nn.Module]]:
    """Within the block, run the repeated blocks of models by torch.compile; give them.

    Blocks of one class share their compiled code, so that compiling takes as long as for one of them. What is
    around them, embeddings and heads, stays eager.

    Args:
        models: whose blocks are run so; they are as before afterwards.
        backend: of torch.compile.
    """
    blocks = [block for model in models for block in repeated_blocks(model)]
    try:
        for block in blocks:
            block.compile(backend=backend)
        yield blocks
    finally:
        for block in blocks:
            block.__dict__.pop("_compiled_call_impl", None)  # torch has no public way back


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the members of the longest ``nn.ModuleList`` whose members are of one class.

    There are none if no list has two. Of lists of equal length the first counts.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    same = [list(found) for found in lists if len(found) > 1 and len(set(map(type, found))) == 1]
    return max(same, key=len, default=[])
