"""Kernels of vLLM's graphs launch products early on the GPUs that can, unless the user chose otherwise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sparseflow.execution.early_launches import EARLY, LAST_PASS


def config(device="cuda", **options):
    """What of vLLM's configuration is read."""
    return SimpleNamespace(
        device_config=SimpleNamespace(device_type=device),
        compilation_config=SimpleNamespace(inductor_compile_config=dict(options)),
    )


@pytest.fixture
def launch_early(monkeypatch):
    from sparseflow.integrations.vllm.early_kernels import launch_early

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    return launch_early


def test_a_hopper_engine_launches_early_and_its_graphs_are_looked_through(launch_early):
    from vllm.config.utils import normalize_value

    found = config(other=1)
    assert launch_early(found)
    options = found.compilation_config.inductor_compile_config
    assert options[EARLY] is True
    graph = torch.fx.symbolic_trace(lambda x: x + 1).graph
    options[LAST_PASS](graph)
    assert normalize_value(options), "vLLM's key of compiled graphs takes it"


@pytest.mark.parametrize("given", [{EARLY: False}, {LAST_PASS: print}])
def test_what_the_user_set_goes_before(launch_early, given):
    found = config(**given)
    assert not launch_early(found)
    assert found.compilation_config.inductor_compile_config == given


def test_cpus_and_older_gpus_launch_one_after_the_other(launch_early, monkeypatch):
    assert not launch_early(config("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert not launch_early(found := config())
    assert not found.compilation_config.inductor_compile_config
