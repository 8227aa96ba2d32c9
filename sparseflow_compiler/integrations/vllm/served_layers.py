"""All layers of an engine: once the last is loaded it is decided how each runs, and vLLM's log says why."""

from __future__ import annotations

import functools
import hashlib
import json
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import vllm.envs
from torch import Tensor, nn
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.logger import init_logger

from sparseflow.contextual.activations.column_policies import ColumnPolicy
from sparseflow.errors import ArgumentError
from sparseflow.integrations.vllm.gated_mlps import Parents, gate_after, remove_gate
from sparseflow.integrations.vllm.ready_kernels import Ready, make_ready
from sparseflow.integrations.vllm.serving_options import ServingOptions
from sparseflow.runtime import PackedWeight, Policy
from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.formats import find
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES
from sparseflow.runtime.products import which
from sparseflow.support.version import __version__

logger = init_logger("vllm.sparseflow")  # under vLLM's own, whose lines are shown

CHOICES = "sparseflow_choices"
"""The entry in vLLM's ``additional_config`` with which its cache of compiled graphs knows our choices."""

Shape = tuple[int, int]


class Method(Protocol):
    """The linear method of one layer."""

    name: str

    def run_sparse(self, layer: nn.Module, weight: PackedWeight, policy: Policy) -> None:
        """Run the layer by a policy."""

    def run_dense(self, layer: nn.Module, weight: Tensor) -> None:
        """Run the layer over a dense weight."""

    def run_gated(self, epilogue: str) -> None:
        """Have the layer's product end with a gate."""

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Run the layer."""


@dataclass(frozen=True)
class _Packed:
    method: Method
    layer: nn.Module
    weight: PackedWeight

    @property
    def shape(self) -> Shape:
        return self.weight.out_features, self.weight.in_features


class ServedLayers:
    """The linear layers of an engine.

    Args:
        options: of the method.

    Attributes:
        dense: why layers are dense, by their names in vLLM.
        sparse: the policies of the others.
        gated: the epilogues of those that gate their product.
        by_columns: the threshold and the policy of dense layers that leave out inputs near zero.
        decided_s: seconds from the last weight until it was decided how layers run, and plans were built.
        no_columns: why thresholds that there are aren't used; empty if they are, or there are none.
    """

    def __init__(self, options: ServingOptions) -> None:
        self.options = options
        self.dense: dict[str, str] = {}
        self.sparse: dict[str, Policy] = {}
        self.gated: dict[str, str] = {}
        self.by_columns: dict[str, tuple[float, ColumnPolicy]] = {}
        self.no_columns = ""
        self.decided_s = 0.0
        self._parents = Parents()
        self._expected: dict[str, weakref.ref[nn.Module]] = {}
        self._packed: list[_Packed] = []
        self._shapes: dict[tuple[Shape, str], list[str]] = {}

    def stays_dense(self, name: str, reason: str) -> None:
        """Note why a layer is dense, whatever its weight is."""
        self.dense[name] = reason

    def expect(self, name: str, layer: nn.Module) -> None:
        """Wait for a layer before anything is decided."""
        self._expected[name] = weakref.ref(layer)
        self._parents.watch(layer)

    def arrived(self, method: Method, layer: nn.Module, weight: PackedWeight | str) -> None:
        """Take a layer that is loaded: the packed weight that it holds, or why it is dense.

        Raises:
            ArgumentError: vLLM's settings don't go with how layers would run.
        """
        if isinstance(weight, str):
            self.dense[method.name] = weight
        else:
            self._packed.append(_Packed(method, layer, weight))
        self.settled(method.name)

    def settled(self, name: str) -> None:
        """Note that a layer is loaded; with the last one, decide.

        Raises:
            ArgumentError: vLLM's settings don't go with how layers would run.
        """
        self._expected.pop(name, None)
        if not any(ref() is not None for ref in self._expected.values()):
            self._decide(get_current_vllm_config())

    def _decide(self, config: VllmConfig) -> None:
        layers, self._packed, begun = self._packed, [], time.perf_counter()
        self._parents.end()
        for group in _grouped(layers):
            found = self._policies(group)
            for entry in group:
                self._settle(entry, found[entry.shape])
                if entry.method.name in self.sparse and config.lora_config is None:
                    self._gate(entry)
            make_ready(
                [self._ready(entry) for entry in group if entry.method.name in self.sparse],
                config.compilation_config.cudagraph_capture_sizes or [],
                config.scheduler_config.max_num_batched_tokens,
                run=not _sleeps(config),
            )
        if vllm.envs.VLLM_BATCH_INVARIANT:
            _require_variance({name: str(policy) for name, policy in self.sparse.items()})
            _require_variance(dict.fromkeys(self.by_columns, "without inputs near zero where rows are few"))
        self._enter_hash(config)
        self.decided_s += time.perf_counter() - begun
        for line in self.lines():
            logger.info("%s", line)

    def _policies(self, group: list[_Packed]) -> dict[Shape, Policy | str]:
        weight, options = group[0].weight, self.options
        return which.policies(
            [entry.shape for entry in group],
            weight.multiplied,
            weight.device,
            mode=options.policy,
            memory="fast" if options.memory == "fast" else "compressed",
            format=weight.format.name,
            tune=options.tune,
            progress=_log_progress,
            packed=True,
        )

    def _settle(self, entry: _Packed, found: Policy | str) -> None:
        reason = found if isinstance(found, str) else _why_dense(found)
        if reason:
            self.dense[entry.method.name] = reason
            entry.method.run_dense(entry.layer, entry.weight.unpack())
            return
        assert isinstance(found, Policy), "a text is a reason"
        entry.method.run_sparse(entry.layer, entry.weight, found)
        self.sparse[entry.method.name] = found
        kind = f"{dtype_name(entry.weight.dtype)}, {entry.weight.format.name}"
        self._shapes.setdefault((entry.shape, kind), []).append(entry.method.name)

    def _gate(self, entry: _Packed) -> None:
        """Have a layer's product gate its result, if its MLP does nothing else with it.

        Not with LoRA, whose adapters add to the product before the gate.
        """
        weight, parent = entry.weight, self._parents.parent(entry.layer)
        epilogue, element = gate_after(entry.layer, parent), ELEMENT_TYPES[weight.dtype]
        if parent is None or epilogue is None or weight.format.why_not(*entry.shape, element, epilogue):
            return
        remove_gate(parent)
        entry.method.run_gated(epilogue)
        self.gated[entry.method.name] = epilogue

    def _ready(self, entry: _Packed) -> Ready:
        bias = getattr(entry.layer, "bias", None)
        run = functools.partial(entry.method.apply, entry.layer, bias=bias)
        return Ready(entry.weight, self.sparse[entry.method.name], bias is not None, run)

    def _enter_hash(self, config: VllmConfig) -> None:
        """Make our choices part of the hash by which vLLM keeps compiled graphs: they are constants there."""
        if not isinstance(config.additional_config, dict):
            raise ArgumentError(
                "additional_config",
                f"it is a {type(config.additional_config).__name__}; our choices must go into it, by "
                "which vLLM keeps compiled graphs",
                "pass a JSON object to --additional-config",
            )
        policies = [[name, p.to_ints(), p.keeps_dense] for name, p in sorted(self.sparse.items())]
        columns = [[name, threshold, p.m_max] for name, (threshold, p) in sorted(self.by_columns.items())]
        choices = [__version__, sorted(self.dense), policies, self.gated, columns]
        config.additional_config[CHOICES] = hashlib.sha256(json.dumps(choices).encode()).hexdigest()

    def lines(self) -> Iterator[str]:
        """Yield what the log says: how many layers are sparse, by which kernels, and why others are not."""
        total = len(self.sparse) + len(self.dense) + len(self.by_columns)
        yield f"sparseflow: {len(self.sparse)} of {total} linear layers run {self._patterns()}"
        for (shape, kind), names in self._shapes.items():
            policy = self.sparse[names[0]]
            ranges = ", ".join(map(str, policy.ranges)) or "the sparse kernel at every M"
            yield f"sparseflow: {len(names)} layers {shape[0]}×{shape[1]} ({kind}): {ranges}"
        for why, count in Counter(policy.why() for _, policy in self.by_columns.values()).items():
            yield f"sparseflow: {count} layers leave out inputs near zero, {why}"
        if self.no_columns:
            yield f"sparseflow: no inputs are left out: {self.no_columns}"
        if self.gated:
            yield f"sparseflow: {len(self.gated)} MLPs gate in the product of gate and up"
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.dense.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"sparseflow: dense: {names[0]}{others}: {reason}"

    def _patterns(self) -> str:
        found = {kind.rpartition(", ")[2] for _, kind in self._shapes}
        return ", ".join(sorted(find(name).pattern for name in found)) or "sparse"


def _grouped(layers: Iterable[_Packed]) -> list[list[_Packed]]:
    """Return the layers that one question about policies answers for."""
    groups: dict[tuple[torch.device, torch.dtype, str], list[_Packed]] = {}
    for entry in layers:
        weight = entry.weight
        groups.setdefault((weight.device, weight.multiplied, weight.format.name), []).append(entry)
    return list(groups.values())


def _why_dense(policy: Policy) -> str:
    """Return why a layer that is packed is to be unpacked; empty where some M runs sparse for a reason."""
    return policy.why() if policy.measured and not policy.pays else ""


def _require_variance(sparse: dict[str, str]) -> None:
    """Refuse batch invariance: no sparse kernel gives a row the same bits whatever rows are beside it.

    Policies take other kernels at other M's, and the CPU's kernel sums in another order where M is small.
    """
    for name, how in sparse.items():
        raise ArgumentError(
            f"VLLM_BATCH_INVARIANT: layer {name}",
            f"how a row is summed depends on the tokens beside it: it runs {how or 'sparse'}",
            "unset VLLM_BATCH_INVARIANT, or serve the dense model",
        )


def _sleeps(config: VllmConfig) -> bool:
    """Return whether the engine may sleep: what is allocated now would count as its weights."""
    return config.model_config is not None and bool(config.model_config.enable_sleep_mode)


def _log_progress(done: int, total: int, text: str) -> None:
    """Write a line for about every tenth of what is measured."""
    if done % max(1, total // 10) == 0:
        logger.info("sparseflow: measuring, %d of %d: %s", done, total, text)
