"""Register the quantization method ``sparseflow`` with vLLM: its entry point ``vllm.general_plugins``."""

from __future__ import annotations

import logging


def register() -> None:
    """Make the method known to vLLM, which calls this in each of its processes, maybe more than once.

    Models of other methods, or of none, never reach anything of ours. Where vLLM is of a version that lacks
    what the method needs, the method stays unknown, with a line in vLLM's log, and all else works.
    """
    try:
        from vllm.model_executor.layers.quantization import (
            QUANTIZATION_METHODS,
            register_quantization_config,
        )

        from sparseflow.integrations.vllm.engine_config import SparseFlowEngineConfig
    except ImportError as error:
        from sparseflow.integrations.vllm.engine_versions import SUPPORTED

        text = "sparseflow serves with vLLM %s; this one lacks what it needs: %s"
        logging.getLogger("vllm.sparseflow").warning(text, SUPPORTED, error)
        return
    method = SparseFlowEngineConfig.get_name()
    if method not in QUANTIZATION_METHODS:
        register_quantization_config(method)(SparseFlowEngineConfig)
