"""vLLM's configuration and one rank, as when a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def one_rank(**additional: object) -> Iterator[Any]:
    """Yield the current configuration of one rank; the arguments are options of our method."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.utils.network_utils import get_open_port

    config = VllmConfig()
    config.additional_config = {"sparseflow": additional}
    with set_current_vllm_config(config):
        address = f"tcp://127.0.0.1:{get_open_port()}"
        init_distributed_environment(1, 0, address, 0, "gloo")
        initialize_model_parallel(1, 1)
        yield config
    cleanup_dist_env_and_memory()
