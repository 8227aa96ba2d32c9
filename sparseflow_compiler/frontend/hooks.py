"""Clean up what a failed torch.export leaves behind in torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules import module


@contextmanager
def no_hooks_left() -> Iterator[None]:
    """Remove the hooks that torch 2.11 leaves on the buffers of all modules when an export fails.

    They keep the failed trace alive, and stop torch.compile of modules that assign to a buffer.
    """
    hooks = module._global_buffer_registration_hooks
    before = set(hooks)
    try:
        yield
    finally:
        for left in set(hooks) - before:
            del hooks[left]
