"""The small kernels of vLLM's graphs launch our products while they run."""

from __future__ import annotations

import torch
from vllm.config import VllmConfig

from sparseflow.execution.early_launches import EARLY, LAST_PASS, require_reads, version

_FIRST = (9, 0)
"""The first compute capability that launches early."""


def launch_early(config: VllmConfig) -> bool:
    """Have vLLM compile graphs whose kernels launch what follows early; return whether it will.

    To be called before anything is compiled. What the user set goes before.

    Args:
        config: of the engine; its options of inductor are added to.
    """
    if config.device_config.device_type != "cuda" or torch.version.hip:
        return False
    if torch.cuda.get_device_capability() < _FIRST:
        return False
    from vllm.compilation.passes.inductor_pass import CallableInductorPass

    options = config.compilation_config.inductor_compile_config
    if EARLY in options or LAST_PASS in options:
        return False
    options |= {EARLY: True, LAST_PASS: CallableInductorPass(require_reads, version())}
    return True
